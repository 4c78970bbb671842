"""Clients of what runs at a replica's address: our own replicas and third-party engines."""
