"""What both ends of a hop share: messages, tickets, transports, shared memory, notices and the clock."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
