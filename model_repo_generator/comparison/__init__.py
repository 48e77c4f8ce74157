"""The comparison without PPipe: the unsplit model on every GPU that meets the SLO, batched by Triton."""
