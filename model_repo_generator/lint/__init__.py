"""Offline linter for any Triton repository: field-level messages with file and line."""

from model_repo_generator.lint.engine import Context, lint
from model_repo_generator.lint.finding import Effect, Finding, Level
from model_repo_generator.lint.folders import NotReadable
from model_repo_generator.lint.model import Host

__all__ = ["Context", "Effect", "Finding", "Host", "Level", "NotReadable", "lint"]
