"""The APIs by which vectors can be asked for, one module each.

A contract is a translation and holds no state: a body to an `EmbeddingRequest`, an `Answer` to a
body, an error to a refusal. What happens between the two is the same for all (`answering`).
"""
