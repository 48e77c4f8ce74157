"""Repositories on disk: the only writer, the copy of the run time beside them, and what grows a served one."""
