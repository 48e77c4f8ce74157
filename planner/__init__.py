"""Control plane: profiles in, plans out."""
