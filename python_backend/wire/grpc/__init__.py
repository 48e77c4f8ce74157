"""Hops by the gRPC library, which is loaded where something goes this way."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
