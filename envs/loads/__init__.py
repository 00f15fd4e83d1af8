"""Loads that a user names: one module for each tool, with its metrics and a parser of what it prints."""
