"""Batches through shared memory: files that senders own, ranges within them, and who may read which when."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
