"""OpenAI's Files and Batch API: requests in a file, answers in a file, each line answered once.

`documents` decides, and is pure: what files and batches are, and which lines of an input are wrong.
`shelf` keeps them in a folder that gateways may share, `uploading` reads forms, `routes` answers,
and `runner` has the lines of batches answered by the routes that answer everybody else.
"""
