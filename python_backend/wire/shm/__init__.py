"""Batches through shared memory: files that senders own, ranges within them, and who may read which when."""
