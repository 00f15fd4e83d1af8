"""Lustre: its tunable parameters, a model of a small cluster, and the target behind both."""
