"""The doors: tried one by one, and under load."""
