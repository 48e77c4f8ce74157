"""What is seen of the links that a dispatcher sends over."""
