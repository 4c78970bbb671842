"""Embeds a whole corpus, each text computed once; an interrupted run can be resumed.

`fragments` and `ledger` are pure: which rows belong together, and what is left to do. `sources`,
`reading` and `writing` handle file formats, `columnar` those of Arrow, `storing` publishes files
atomically, `journal` holds vectors of incomplete fragments. `computing` is the fragment function,
shared by `running`, other frameworks and the Batch API.
"""
