"""Which replicas exist, are well and come next; what starts and stops them."""
