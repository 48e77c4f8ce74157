"""What a dispatcher counts and how long things really take, and the page that Prometheus reads."""

from python_backend.compiled import compiled_path

__path__[:0] = compiled_path(__name__)
