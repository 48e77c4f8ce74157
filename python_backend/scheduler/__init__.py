"""Pure scheduler core: events in, actions out. No clock, no I/O, no threads."""
