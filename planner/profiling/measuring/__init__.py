"""Blocks timed on a device that is here: on all of it or as slices side by side, and what the GPU did."""
