"""The native callbacks (engine.c, compiled to engine.so) and the record that they share with Python (`layout`)."""
