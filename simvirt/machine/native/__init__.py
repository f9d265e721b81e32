"""The native callbacks (engine.c) and the record that they share with Python (layout.py)."""
