"""Tests a service against OpenAI's embeddings contract, sentence by sentence, over HTTP.

Works against any base URL. Nothing here imports the rest of embedfleet except its vocabulary, so
that tester and tested share no code and therefore no mistake.
"""
