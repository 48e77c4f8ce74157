"""A plan, a run and a fleet as one page: files -> sections of plain data -> one HTML file."""
