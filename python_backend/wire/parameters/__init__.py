"""Parameters of a client's request that say something of its frame; dispatchers and cascades read them."""
