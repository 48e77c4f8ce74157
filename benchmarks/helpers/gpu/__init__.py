"""The parts of scripts/gpu, and its page."""
