"""The vector cache: keys, entries and tiers.

`key` defines which texts have the same vector, `entry` what is stored of one. `memory` and `redis`
are the two tiers, `tiers` combines them. Everything is per text; nothing here depends on requests,
replicas or HTTP.
"""
