"""What a deployment asks for, as a hash: whether a plan in a folder still answers it.

Rules
- What a plan does not depend on is no part of it: hosts, ports, what dispatchers do with streams.
- A deployment that leaves its margins open asks for something else than one that states them.
"""

from __future__ import annotations

from dataclasses import replace

from planner import serial
from planner.cluster import Cluster
from planner.deployment.file import Deployment
from planner.plan import Plan
from planner.problem import Problem

_TO_BE_SEARCHED = -1.0
"""In place of a margin: none may be stated so."""


def margins_are_open(deployment: Deployment) -> bool:
    """Whether the file leaves margins to a search."""
    return not isinstance(deployment.stated_margin, float)


def asked_hash(deployment: Deployment, problem: Problem) -> str:
    """Of the problem that the deployment states."""
    asked = _with_open_margins(deployment, problem)
    demands = tuple(replace(demand, streams=None) for demand in asked.demands)
    return serial.content_hash(replace(asked, cluster=_nowhere(asked.cluster), demands=demands))


def answers(plan: Plan, deployment: Deployment, problem: Problem) -> bool:
    """Whether the plan was made for what the deployment asks. problem: the one that it states.

    A plan without `asked_hash` names the whole problem, hosts and ports included.
    """
    whole = serial.content_hash(_with_open_margins(deployment, problem))
    return plan.asked_for in (asked_hash(deployment, problem), whole)


def is_searched(solved: Problem, plan: Plan, deployment: Deployment, problem: Problem) -> bool:
    """Whether the plan's problem is what the deployment asks, with margins that were searched for it. solved:
    the plan's. problem: the one that the deployment states.
    """
    return solved.options.loss_share is not None and answers(plan, deployment, problem)


def _with_open_margins(deployment: Deployment, problem: Problem) -> Problem:
    if not margins_are_open(deployment):
        return problem
    return replace(problem, options=replace(problem.options, slo_margin=_TO_BE_SEARCHED))


def _nowhere(cluster: Cluster) -> Cluster:
    """The same servers at no address."""
    entries = [
        replace(entry, host="", http_port=0, grpc_port=0, metrics_port=0, feedback_port=0)
        for entry in cluster.entries
    ]
    return replace(
        cluster,
        servers=tuple(
            replace(server, host="", http_port=0, grpc_port=0, metrics_port=0) for server in cluster.servers
        ),
        entry=entries[0],
        more_entries=tuple(entries[1:]),
    )
