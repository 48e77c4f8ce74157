"""Scripts that a bundle carries into its containers: standard library only, no import of this project."""
