"""Detection: how far a machine is from what training knew of it, and whether that is an anomaly."""
