"""Delivery of texts to replicas and vectors back, each text exactly once.

`queue` decides which text leaves first, `dispatch` which replica takes it, `decisions` what happens
when a lease on it ends; all three are pure. `pool` makes the calls.
"""
