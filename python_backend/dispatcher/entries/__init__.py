"""Several entries: which shards this one owns, and the frames that pass between them."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
