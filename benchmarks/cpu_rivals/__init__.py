"""The rivals of the CPU engine, each in an environment of its own; see `__main__.py`."""
