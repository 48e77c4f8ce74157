"""Plan to Triton model repositories: render (pure), then write."""
