"""Large messages: gRPC calls over plain sockets, sent from where their tensors lie."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
