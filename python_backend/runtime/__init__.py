"""The scheduler core on real time: clock, turns, transports, health, metrics."""

from python_backend import compiled_path

__path__[:0] = compiled_path(__name__)
