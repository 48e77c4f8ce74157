"""Several entries: which shards this one owns, and the frames that pass between them."""
