"""A real engine that serves a language model: its load, its knobs, and its step times for the simulator."""
