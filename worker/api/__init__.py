"""HTTP: what other programs may ask a running process."""
