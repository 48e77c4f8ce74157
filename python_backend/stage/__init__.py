"""The inside of a stage worker: takes batches with tickets, runs them, passes results on."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
