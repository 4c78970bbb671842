"""Embeds a whole corpus, each text computed once; an interrupted run can be resumed.

`fragments` and `ledger` are pure: which rows belong together, and what is left to do. `sources`,
`reading` and `writing` handle file formats, `columnar` those of Arrow; `journal` holds vectors of
incomplete fragments. `computing` computes a fragment, for `running` and for other frameworks.
"""
