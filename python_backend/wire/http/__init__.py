"""Hops through Triton's HTTP endpoint: connections that stay open, messages built by hand, the transport."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
