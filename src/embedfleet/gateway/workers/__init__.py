"""Several processes that answer at one address, over one fleet.

One process, the *primary*, owns the fleet, the admin address and the autoscaler, and answers no
caller. Each *worker* is a gateway with a queue of its own that sees the fleet through the primary.
"""
