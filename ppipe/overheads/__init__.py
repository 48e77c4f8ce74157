"""Times stages and hops on real tritonservers, with stages that compute nothing."""
