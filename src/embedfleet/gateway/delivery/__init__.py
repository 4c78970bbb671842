"""Delivery: texts to replicas and vectors back, each text exactly once.

`queue` says which waiting text leaves first, `dispatch` which replica takes it, and `decisions`
what becomes of it when a lease on it ends; all three are pure. `pool` makes the calls.
"""
