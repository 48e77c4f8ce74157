"""What a stage does with a batch: computes it on the CPU or a GPU, or only pretends to."""
