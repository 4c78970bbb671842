"""A corpus in, vectors out, each text computed once: whatever stops a run, the next goes on.

`fragments` and `ledger` decide, and are pure: which rows belong together, and what is still to be
done. `sources`, `reading` and `writing` are the forms of files, `columnar` those of Arrow,
`storing` names files atomically, `journal` holds vectors of fragments that are not whole yet.
`computing` is the fragment function, which `running`, other frameworks and the Batch API share.
"""
