"""A fleet that lives in Kubernetes: which pods there are, how many there should be."""
