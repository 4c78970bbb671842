"""Kubernetes integration: discovery of pods, leader election, and scaling of Deployments."""
