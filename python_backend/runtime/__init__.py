"""The scheduler core on real time: clock, queue thread, transports, health, metrics."""
