"""Data plane: the scheduler core and what runs it, live on Triton or in virtual time."""
