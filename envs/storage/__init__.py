"""Storage targets: databases, key-value stores, indexes."""
