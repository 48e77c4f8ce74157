"""What a deployment asks for, as a hash: whether a plan in a folder still answers it."""

from __future__ import annotations

from dataclasses import replace

from planner import serial
from planner.deployment.file import Deployment
from planner.problem import Problem

_TO_BE_SEARCHED = -1.0
"""In place of a margin: none may be stated so."""


def margins_are_open(deployment: Deployment) -> bool:
    """Whether the file leaves margins to a search."""
    return not isinstance(deployment.stated_margin, float)


def asked_hash(deployment: Deployment, problem: Problem) -> str:
    """Of the problem that the deployment states; one that leaves its margins open is no other's."""
    if margins_are_open(deployment):
        problem = replace(problem, options=replace(problem.options, slo_margin=_TO_BE_SEARCHED))
    return serial.content_hash(problem)
