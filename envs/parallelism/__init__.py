"""Parallel plans: how to split the training or the serving of a model over a cluster, what it costs and why."""
