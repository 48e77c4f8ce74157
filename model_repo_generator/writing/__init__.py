"""Repositories on disk: the only writer, the copy of the run time, and what grows a repository in use."""
