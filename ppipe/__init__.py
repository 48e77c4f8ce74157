"""The front door: command line, local launcher and supervisor, bench, reports."""
