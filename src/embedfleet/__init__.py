"""embedfleet: text embeddings as one dependable service. Start with `vocabulary.py`."""

__version__ = "0.1.0"
