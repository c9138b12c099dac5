"""Recorded readings through the worker's own pipeline."""
