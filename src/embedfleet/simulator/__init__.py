"""The production policies, queue and balancing under virtual time."""
