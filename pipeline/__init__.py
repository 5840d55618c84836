"""Floor 0: what an event, a stream, a key, an option, an outcome is. Pure: no I/O, no environment."""
