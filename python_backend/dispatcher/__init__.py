"""A model's dispatcher: the scheduler core on real time, and what keeps every frame answered."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
