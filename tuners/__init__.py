"""Everything that asks and tells."""
