"""How a configuration is measured: isolated, repeated, beside the default, on one machine or many."""
