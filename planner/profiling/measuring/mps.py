"""Times slices of a device as they run in production: as many processes side by side as there are slices.

On a GPU each process gets its share of the threads through MPS: CUDA reads CUDA_MPS_ACTIVE_THREAD_PERCENTAGE
once, when it starts, so every process sets it before anything else. Without MPS's control daemon CUDA ignores
the variable and time-slices, which is not what is served, so that is refused. On a CPU the processes simply
share the host.

Rules
- All processes start each batch together (a barrier), so that none is timed while its neighbours idle.
- A table's figure is the median over the samples of all processes.
- A round counts when every process has timed it; only then is it kept.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from planner.cluster import GpuClass
from planner.deployment import ModelSpec
from planner.profiling.measuring.measure import (
    Bench,
    Measurement,
    MeasureOptions,
    Seen,
    Step,
    measurement_of,
    require_some,
)
from planner.profiling.measuring.partial import Partial
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import split_model

PERCENTAGE = "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"
_PIPES = "CUDA_MPS_PIPE_DIRECTORY"
_DEFAULT_PIPES = "/tmp/nvidia-mps"
_BARRIER_S = 600.0
_END_S = 10.0


@dataclass(frozen=True)
class SliceJob:
    """What each process times. The split is made anew there: it depends on these alone."""

    spec: ModelSpec
    classes: tuple[GpuClass, ...]
    options: MeasureOptions
    batch_sizes: tuple[int, ...]


def measure_slices(
    job: SliceJob, slices: int, step: Step | None = None, partials: Sequence[Partial] = ()
) -> Measurement:
    """The times of one of `slices` equal slices while the others are as busy.

    partials: one per process. Raises ModelError, also where a process ends early.
    """
    require_mps(job.options.device)
    kept = list(partials) or [Partial(None, {}) for _ in range(slices)]
    with processes(run_slice, job, slices, slices) as workers:
        return timed(workers, job, slices, kept, step, f"{job.spec.name} in {slices} slices")


def timed(
    workers: Sequence[Worker],
    job: SliceJob,
    slices: int,
    kept: Sequence[Partial],
    step: Step | None,
    label: str,
) -> Measurement:
    """What processes of run_slice time together, as one measurement. kept: one per process. label: see
    `step`, which is called after each round.
    """
    known = frozenset.intersection(*(partial.known for partial in kept))
    found = gather(workers, job, slices)
    usable = [size for size in sorted(job.batch_sizes) if all(size in sizes for sizes, _ in found)]
    notes = sorted({note for _, said in found for note in said})
    for worker in workers:
        worker.pipe.send((usable, known))
    for repeat in range(job.options.rounds):
        for batch in usable:
            if (repeat, batch) not in known:
                for partial, times in zip(kept, gather(workers, job, slices), strict=True):
                    partial.add(repeat, batch, times)
        if step is not None:
            step(f"{label}: round {repeat + 1} of {job.options.rounds}")
    ends = gather(workers, job, slices)
    blocks = ends[0][0]
    return measurement_of(job.options, blocks, _together([seen for _, seen in ends]), usable, notes, kept)


def _together(all_seen: Sequence[Seen]) -> Seen:
    """One device seen by several processes: the worst of its throttling."""
    throttled: dict[str, float] = {}
    for seen in all_seen:
        for reason, share in seen.throttled.items():
            throttled[reason] = max(share, throttled.get(reason, 0.0))
    return replace(all_seen[0], throttled=throttled)


def require_mps(device: str) -> None:
    """Raises ModelError where slices of a GPU cannot be had."""
    folder = Path(os.environ.get(_PIPES, _DEFAULT_PIPES))
    if device.startswith("cuda") and not (folder / "control").exists():
        raise ModelError(
            f"slices of a GPU need MPS, and its control daemon does not run (no {folder / 'control'}): start "
            f"it with `nvidia-cuda-mps-control -d` (and set {_PIPES} if it is elsewhere), or set the class's "
            "max_slices_per_gpu to 1"
        )


@dataclass(frozen=True)
class Worker:
    """A process that times, or that keeps a slice busy, and the pipe to it."""

    process: Any
    pipe: Connection


def _context(device: str) -> Any:
    """CUDA does not survive a fork. On a CPU processes are forked from one that has imported what takes
    seconds, each, to import.
    """
    if device.startswith("cuda"):
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo", "torch.export"])
    return context


@contextlib.contextmanager
def processes(
    body: Callable[[SliceJob, int, Any, Connection], None], job: SliceJob, slices: int, count: int
) -> Iterator[list[Worker]]:
    """So many processes that run `body`, of a device in so many slices, with a barrier of their own. They end
    with the context.
    """
    context = _context(job.options.device)
    barrier = context.Barrier(count)
    workers = []
    try:
        for _ in range(count):
            ours, theirs = context.Pipe()
            process = context.Process(target=body, args=(job, slices, barrier, theirs), daemon=True)
            process.start()
            theirs.close()
            workers.append(Worker(process=process, pipe=ours))
        yield workers
    finally:
        for worker in workers:
            worker.pipe.close()
        for worker in workers:
            worker.process.join(_END_S)
            if worker.process.is_alive():
                worker.process.terminate()
                worker.process.join()


def gather(workers: Sequence[Worker], job: SliceJob, slices: int) -> list[Any]:
    """What each process says next. Raises ModelError with what the first that fails says."""
    said: dict[int, Any] = {}
    while len(said) < len(workers):
        waiting = {index: worker for index, worker in enumerate(workers) if index not in said}
        wait([handle for worker in waiting.values() for handle in (worker.pipe, worker.process.sentinel)])
        for index, worker in waiting.items():
            if worker.pipe.poll():
                said[index] = _checked(worker.pipe, job, slices)
            elif not worker.process.is_alive():
                raise _failed(job, slices, f"a process ended with status {worker.process.exitcode}")
    return [said[index] for index in range(len(workers))]


def _checked(pipe: Connection, job: SliceJob, slices: int) -> Any:
    try:
        said = pipe.recv()
    except EOFError:
        raise _failed(job, slices, "a process ended without a word") from None
    if isinstance(said, _Failure):
        raise _failed(job, slices, said.text)
    return said


def _failed(job: SliceJob, slices: int, text: str) -> ModelError:
    return ModelError(f"model {job.spec.name}: timing {slices} slices side by side failed: {text}")


@dataclass(frozen=True)
class _Failure:
    text: str


def run_slice(job: SliceJob, slices: int, barrier: Any, pipe: Connection) -> None:
    """The body of one process that times."""
    as_slice(_time_slice, job, slices, barrier, pipe)


def as_slice(
    body: Callable[[SliceJob, Any, Connection], None],
    job: SliceJob,
    slices: int,
    barrier: Any,
    pipe: Connection,
) -> None:
    """Run `body` with a slice's share of the threads; what goes wrong is said over the pipe."""
    os.environ[PERCENTAGE] = str(100 // slices)
    try:
        body(job, barrier, pipe)
    except threading.BrokenBarrierError:
        return  # another process failed, and has said why
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the one who asked is gone
    except Exception as error:
        with contextlib.suppress(OSError):
            pipe.send(_Failure(f"{type(error).__name__}: {error}"))
        barrier.abort()


def _time_slice(job: SliceJob, barrier: Any, pipe: Connection) -> None:
    split = split_model(job.spec, job.classes)
    bench = Bench(split, job.options, max(job.batch_sizes))
    barrier.wait(_BARRIER_S)
    pipe.send(bench.usable(job.batch_sizes))
    usable, known = pipe.recv()
    require_some(split, usable, job.options.device)
    for repeat in range(job.options.rounds):
        for batch in usable:
            if (repeat, batch) not in known:
                barrier.wait(_BARRIER_S)
                times = bench.try_time(batch)
                if times is None:
                    raise MemoryError(f"out of memory at batch {batch}, which had fit; leave it out")
                pipe.send(times)
    pipe.send((split.block_count, bench.seen()))
    with contextlib.suppress(EOFError):
        pipe.recv()  # stay until the others are done too: their figures are of a busy device
