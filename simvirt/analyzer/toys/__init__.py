"""Popek and Goldberg's third-generation machine, variants of it, and monitors in the machine's own code."""
