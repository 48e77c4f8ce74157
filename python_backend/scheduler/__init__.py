"""Pure scheduler core: events in, actions out. No clock, no I/O, no threads."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
