"""Settings that manuals and experience advise for a server on this machine, without measuring anything."""
