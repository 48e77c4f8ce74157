"""Runs a deployment's tritonservers on this machine and looks at them while they run."""
