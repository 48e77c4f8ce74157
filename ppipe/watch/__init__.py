"""Frames of files, pictures and cameras to a served model, and what it answers: the example of a client."""
