"""Frames that name their stream: what a stream may send, whose turn it is, and answers in order."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
