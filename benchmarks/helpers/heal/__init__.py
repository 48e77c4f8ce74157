"""The loop that plans again: its fleet, its load, its turns."""
