"""Tables that a dispatcher serves by: which is served, which end, and how another one is handed over."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
