"""A cascade on the entry server: asks models one after another, and answers each frame once."""
