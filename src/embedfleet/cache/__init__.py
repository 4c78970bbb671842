"""Vectors that were computed before: what they are found by, where they lie, who waits for them.

`key` says which texts have the same vector, `entry` what is kept of one. `memory` and `redis` are
the two tiers, `tiers` asks one after the other, and `single_flight` has equal texts computed once.
All of it is about single texts; nothing here knows requests, replicas or HTTP.
"""
