"""The paper's problems and the reference's results, and ours beside them: scripts/paper."""
