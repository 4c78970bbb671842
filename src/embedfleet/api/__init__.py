"""OpenAI's and other APIs: one request from its bytes to the bytes of its answer."""
