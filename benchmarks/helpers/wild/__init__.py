"""Inputs as people have them, and what is right for them."""
