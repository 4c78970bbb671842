"""OpenAI's Files and Batch API: requests in a file, answers in a file, each line answered once.

`documents` is pure: what files and batches are, and which lines of an input are invalid.
`store` keeps them in a folder that gateways may share, `uploading` parses uploads, `routes` are the
HTTP routes, and `runner` sends the lines of batches through the ordinary routes.
"""
