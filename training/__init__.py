"""How the built-in model is made: CPU preparation, three training steps on one GPU, export.

Nothing here is imported by the package itself; it needs torch, and the data that SOURCES.md in the
data directory describes. README.md beside this file says how to repeat the training.
"""
