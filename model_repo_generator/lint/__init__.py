"""Offline linter for any Triton repository: field-level messages with file and line."""
