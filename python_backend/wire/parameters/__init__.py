"""Parameters of a client's request that say something of its frame; dispatchers and cascades read them."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
