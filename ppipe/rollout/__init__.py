"""Rolling a plan out on a running fleet: the steps made, recorded and shown."""
