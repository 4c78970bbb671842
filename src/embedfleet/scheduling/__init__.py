"""Which text runs where and when: the queue, delivery to replicas, batches beside an engine."""
