"""Configurations that are both linted and loaded in a real tritonserver."""

from tests.lint.battery.case import Case, Outcome
from tests.lint.battery.completed import COMPLETED_CASES
from tests.lint.battery.ensembles import ENSEMBLE_CASES
from tests.lint.battery.fields import FIELD_CASES
from tests.lint.battery.folders import DIES_OF_FOLDERS, FOLDER_CASES
from tests.lint.battery.profiles import DIES_OF_PROFILES, PROFILE_CASES
from tests.lint.battery.sequences import DIES_OF_STATES, SEQUENCE_CASES
from tests.lint.battery.warmups import DIES_OF_WARMUPS, WARMUP_CASES

_SERVED = (
    *FIELD_CASES,
    *FOLDER_CASES,
    *WARMUP_CASES,
    *ENSEMBLE_CASES,
    *SEQUENCE_CASES,
    *PROFILE_CASES,
)
LOADED_CASES = tuple(case for case in _SERVED if case.outcome is not Outcome.HANGS)
"""All on one server."""
HANGS_CASES = tuple(case for case in _SERVED if case.outcome is Outcome.HANGS)
"""On one server, all at once."""
DIES_CASES = (*DIES_OF_FOLDERS, *DIES_OF_WARMUPS, *DIES_OF_STATES, *DIES_OF_PROFILES)
"""Each on a server of its own."""

__all__ = ["COMPLETED_CASES", "DIES_CASES", "HANGS_CASES", "LOADED_CASES", "Case", "Outcome"]
