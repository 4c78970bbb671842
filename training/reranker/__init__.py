"""How the built-in reranker is made: lists of hard negatives that the built-in model finds, one
training step on one GPU, export.

It reads a query and a document as one text and is trained to put the right document first among
those that the built-in model takes for similar. README.md in the folder above tells the figures.
"""
