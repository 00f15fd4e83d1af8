"""Tournaments: tuners compared on the same targets, their bundles, statistics and figures."""
