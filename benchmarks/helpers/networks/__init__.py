"""Neural networks that benchmarks split, serve or estimate."""
