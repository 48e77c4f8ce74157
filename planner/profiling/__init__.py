"""From a torch model to a profile: split, measure, estimate. The only torch importers of the planner."""
