"""The model zoo: factories of CNNs for deployments, with random weights unless a state_dict is given."""
