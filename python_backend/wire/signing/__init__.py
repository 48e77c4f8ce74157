"""Which messages are genuine: a deployment's keys, how signatures travel, tickets that were used."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
