"""The scheduler core on virtual time."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
