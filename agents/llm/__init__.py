"""Reasoners about settings: without a model, the playbook."""
