"""Does a plan fit what it was made for, and a repository on disk its plan? Nothing here writes."""
