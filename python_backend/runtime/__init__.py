"""The scheduler core on real time: clock, turns, transports, health, metrics."""
