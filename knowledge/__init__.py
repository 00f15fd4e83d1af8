"""What can be read: manuals, traces, and rules learned from sessions."""
