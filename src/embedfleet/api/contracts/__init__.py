"""API contracts, one module each: how a client asks for vectors, and how it is answered.

A contract is a stateless translation: a body to an `EmbeddingRequest`, an `Answer` to a body, an
error to an error body. Everything in between is shared (`answering`).
"""
