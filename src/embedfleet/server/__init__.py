"""The processes: a gateway, its workers, a replica."""
