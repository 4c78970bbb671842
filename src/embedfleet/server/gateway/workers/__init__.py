"""Multi-process gateway: a primary and its workers at one address, over one fleet.

The *primary* owns the fleet, the admin address and the autoscaler, and serves no client. Each
*worker* is a gateway with a queue of its own that sees the fleet through the primary.
"""
