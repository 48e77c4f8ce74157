"""Several models' dispatchers on one clock, whose batches truly meet on the same links and cores.

Rule: each core knows its own reservations and its shares; with a ledger it is told what the others' batches
take of the entry's uplink, as live dispatchers of one entry tell each other. All else it finds out from
completions.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence

from planner.serving import ServedModel
from python_backend.scheduler.core import SchedulerCore
from python_backend.scheduler.events import LinkTaken
from python_backend.scheduler.ingress import Cores
from python_backend.scheduler.links import Links
from python_backend.scheduler.timelines import NEVER
from python_backend.simulator.counts import SimulatedCounts
from python_backend.simulator.driver import SimulatedDriver
from python_backend.simulator.execution import Execution
from python_backend.simulator.jitter import Jitter


def run_together(
    models: Sequence[ServedModel], arrivals: Sequence[Iterator[int]], ledger: bool = True
) -> list[SimulatedCounts]:
    """Serve every model's arrivals with a core of its own; the models' counts, in order."""
    links = Links()
    cores = shared_cores(models)
    drivers = [
        SimulatedDriver(one, SchedulerCore(one, told=ledger), Execution(one, Jitter(), links, cores))
        for one in models
    ]
    for driver, times in zip(drivers, arrivals, strict=True):
        driver.begin(times)
        if ledger:
            driver.tell = functools.partial(
                _tell, [other for other in drivers if other is not driver], driver
            )
    while True:
        first = min(drivers, key=SimulatedDriver.next_us)
        if first.next_us() == NEVER:
            return [driver.counts for driver in drivers]
        first.step()


def _tell(others: Sequence[SimulatedDriver], teller: SimulatedDriver, use: LinkTaken) -> None:
    for other in others:
        other.core.handle(use, teller.now_us)


def shared_cores(models: Sequence[ServedModel], parts: bool = False) -> Cores | None:
    """The cores of all servers that prepare for any of the models. parts: each has but a part of a server's,
    as shards of one model have.
    """
    cores: Cores | None = None
    for model in models:
        if model.entry is None:
            continue
        if cores is None:
            cores = Cores(model.entry)
        for host in model.entry.hosts:
            if host.server not in cores.hosts:
                cores.hosts[host.server] = len(cores.free_us)
                cores.free_us.append([0] * host.cores)
            elif parts and model is not models[0]:
                cores.free_us[cores.hosts[host.server]] += [0] * host.cores
    return cores
