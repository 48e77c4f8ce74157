"""What a network is: loaded, asked whether it may be served, exported, seen as a line of operators."""
