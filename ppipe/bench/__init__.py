"""Measures a served deployment: one open-loop client for every system that is compared, on one workload."""
