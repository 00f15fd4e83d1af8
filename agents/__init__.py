"""Learners and reasoners."""
