"""Cascades: answers of one model become frames of the next, with one SLO for all of it."""
