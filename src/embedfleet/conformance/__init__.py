"""Whether a service keeps OpenAI's embeddings contract, asked sentence by sentence over HTTP.

Works against any base URL; nothing here imports the rest of embedfleet but its vocabulary, so that
the judge shares no code, and no mistake, with the judged.
"""
