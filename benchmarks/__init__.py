"""Measurements of the project against its own figures: scripts/benchmarks NAME [--json]."""
