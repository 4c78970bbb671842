"""Token ids to vectors on one device, behind one protocol."""
