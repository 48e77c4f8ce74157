"""The scheduler core on virtual time."""
