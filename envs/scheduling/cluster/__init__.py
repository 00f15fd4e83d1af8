"""Batch and GPU jobs on clusters, and functions that start cold: compiled simulators, environment and target."""
