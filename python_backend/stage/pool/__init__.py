"""Preparing in processes of their own, one pool for all stage workers of a server: a decoder that crashes
ends one of these and no worker.

jobs: what is said; slots: where frames and pixels lie; server: the pool; client: a stage worker's end of it.
"""
