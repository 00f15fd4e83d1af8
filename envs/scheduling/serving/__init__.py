"""Continuous batching on LLM servers: a compiled simulator, its policies, environments and target."""
