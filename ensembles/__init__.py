"""Declared ensembles, pre- and postprocessing steps, example deployments and the model zoo."""
