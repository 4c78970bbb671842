"""Bytes of requests and answers in the forms of each API. Pure."""
