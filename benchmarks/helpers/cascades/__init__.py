"""Cascades on real servers, and what they are compared with."""
