"""Vectors that were computed before: what they are found by, and where they lie.

`key` says which texts have the same vector, `entry` what is kept of one. `memory` and `redis` are
the two tiers, and `tiers` asks one after the other.
All of it is about single texts; nothing here knows requests, replicas or HTTP.
"""
