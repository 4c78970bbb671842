"""Manifests for one case, made from those that are reviewed in `deploy/`."""
