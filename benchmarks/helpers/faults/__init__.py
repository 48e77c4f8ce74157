"""Faults under load: how they strike, and what came of them."""
