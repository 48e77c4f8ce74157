"""Frames as the dispatcher holds them: states and moves, room for them, and the one answer that each gets."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
