"""Training of bundles: from readings to their files."""
