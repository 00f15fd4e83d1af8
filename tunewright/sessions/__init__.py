"""One tuning session: its loop, what it changes and puts back, and its verdict."""
