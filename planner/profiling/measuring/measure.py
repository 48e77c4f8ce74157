"""Time a split model's blocks on this device, prepared as the stages' executor prepares them.

Rules
- What is timed is the program that a stage would run, block by block, on values that flow from block to
  block.
- Repeats are interleaved (all blocks, all batch sizes, then again), so that a slow moment or a drift spoils
  no single figure; the figure is the median.
- A batch size is left out, and so are larger ones, when no block finishes a smaller one within the SLO, or
  when the device runs out of memory; the notes say so.
- With a partial file an interrupted measurement goes on; warm-up is done anew.
"""

from __future__ import annotations

import json
import resource
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from planner import serial
from planner.execution import ExecutorOptions
from planner.plan import BlockRange
from planner.profiling.measuring.nvml import GpuSummary, watch_gpu
from planner.profiling.measuring.partial import Partial
from planner.profiling.measuring.timing import device_name
from planner.profiling.network import LoadedPrograms, Prepare, Running, Times
from planner.profiling.networks.errors import ModelError
from planner.profiling.split import Split

Step = Callable[[str], None]


@dataclass(frozen=True)
class MeasureOptions:
    """How to time. `threads` are torch's, on the CPU.

    `stop_us`: the SLO, or None to time every batch size. `repeat_check`: time everything twice, and compare.
    """

    device: str = "cpu"
    threads: int = 1
    warm_up: int = 2
    repeats: int = 7
    stop_us: float | None = None
    seed: int = 0
    repeat_check: bool = False
    executor: ExecutorOptions = field(default_factory=ExecutorOptions)
    prepare: Prepare | None = None

    @property
    def rounds(self) -> int:
        """How often every block is timed at every batch size."""
        return self.repeats * (2 if self.repeat_check else 1)


@dataclass(frozen=True)
class Seen:
    """A device, and what was seen of it while it was timed; see Measurement."""

    device: str
    facts: Mapping[str, str]
    throttled: Mapping[str, float]


@dataclass(frozen=True)
class Measurement:
    """latency_us[block][i] and spread[block][i] (half the interquartile range / median) at batch_sizes[i].

    facts: of the device and its memory. throttled: share of samples per reason, where a GPU held itself back.
    repeatability: largest difference of a batch's whole time between two measurements, as a share.
    """

    device: str
    batch_sizes: tuple[int, ...]
    latency_us: tuple[tuple[float, ...], ...]
    spread: tuple[tuple[float, ...], ...]
    notes: tuple[str, ...] = field(default=())
    facts: Mapping[str, str] = field(default_factory=dict)
    throttled: Mapping[str, float] = field(default_factory=dict)
    repeatability: float | None = None
    beside_own_us: tuple[tuple[float, ...], ...] = ()
    beside_others_us: tuple[tuple[float, ...], ...] = ()
    """Of slices, as LatencyTable has them."""


def measure(
    split: Split,
    batch_sizes: Sequence[int],
    options: MeasureOptions | None = None,
    step: Step | None = None,
    partial: Partial | None = None,
) -> Measurement:
    """Time every block at every batch size. `step` is called with a label after each of options.rounds."""
    options = options or MeasureOptions()
    kept = partial or Partial(None, {})
    bench = Bench(split, options, max(batch_sizes))
    usable, notes = bench.usable(batch_sizes)
    require_some(split, usable, options.device)
    for repeat in range(options.rounds):
        for batch in list(usable):
            if kept.get(repeat, batch) is None:
                times = bench.try_time(batch)
                if times is None:
                    notes.append(_no_memory(batch, options.device))
                    usable = [size for size in usable if size < batch]
                    break
                kept.add(repeat, batch, times)
        if step is not None:
            step(f"{split.model}: round {repeat + 1} of {options.rounds}")
    return measurement_of(options, split.block_count, bench.seen(), usable, notes, [kept])


def require_some(split: Split, usable: Sequence[int], device: str) -> None:
    """Raises ModelError where not even the smallest batch fits."""
    if not usable:
        raise ModelError(
            f"model {split.model}: out of memory on {device} at the smallest of its batch_sizes; list "
            "smaller ones, or profile on a larger device"
        )


def identity_of(split: Split, options: MeasureOptions, slices: int) -> Mapping[str, str]:
    """What a partial measurement is of."""
    return {
        "split": split.digest,
        "model": split.model,
        "device": device_name(options.device, options.threads),
        "slices": str(slices),
        "executor": serial.content_hash(options.executor),
        "runtime": split.network.runtime,
    }


class Bench:
    """A split model's blocks on a device, to be timed one after another."""

    def __init__(self, split: Split, options: MeasureOptions, largest: int) -> None:
        self.split = split
        self.options = options
        self.watch, self.watch_note = watch_gpu(options.device)
        self._chain = chain_of(split, options, largest)
        self._peaks: dict[int, Sequence[int]] = {}

    def usable(self, batch_sizes: Sequence[int]) -> tuple[list[int], list[str]]:
        """The batch sizes that are worth timing and fit the device, with a note for each that does not."""
        options = self.options
        usable: list[int] = []
        for batch in sorted(set(batch_sizes)):
            times = self._warm_up(batch)
            if times is None:
                return usable, [_no_memory(batch, options.device)]
            usable.append(batch)
            if options.stop_us is not None and min(times) > options.stop_us:
                slo = f"{options.stop_us / 1000:g} ms"
                return usable, [f"batches over {batch}: no block meets the SLO of {slo}"]
        return usable, []

    def try_time(self, batch: int) -> Times | None:
        """Microseconds of each block; None where memory does not suffice."""
        return self._chain.times(batch, self.watch.sample if self.watch is not None else _nothing)

    def seen(self) -> Seen:
        """The device, and what was seen of it so far."""
        summary = self.watch.summary() if self.watch is not None else GpuSummary(facts={}, throttled={})
        facts = dict(summary.facts)
        if self.watch_note:
            facts["nvml"] = self.watch_note
        if not self.options.device.startswith("cuda"):
            facts["peak_process_bytes"] = str(1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        if self._peaks:
            facts["peak_memory_bytes"] = json.dumps(
                {str(batch): list(peaks) for batch, peaks in self._peaks.items()}
            )
        return Seen(
            device=device_name(self.options.device, self.options.threads),
            facts=facts,
            throttled=summary.throttled,
        )

    def _warm_up(self, batch: int) -> Times | None:
        """Times of the last warm-up run."""
        for _ in range(max(1, self.options.warm_up)):
            times = self.try_time(batch)
            if times is None:
                return None
        peaks = self._chain.peaks(batch)
        if peaks:
            self._peaks[batch] = peaks
        return times


def chain_of(split: Split, options: MeasureOptions, largest: int) -> LoadedPrograms:
    """Every block as a stage of its own would run it."""
    blocks = [split.part(BlockRange(index, index + 1)) for index in range(split.block_count)]
    return split.network.chain(
        blocks,
        Running(
            executor=options.executor,
            device=options.device,
            largest=largest,
            threads=options.threads,
            seed=options.seed,
            prepare=options.prepare,
        ),
    )


def measurement_of(
    options: MeasureOptions,
    block_count: int,
    seen: Seen,
    usable: Sequence[int],
    notes: Sequence[str],
    kept: Sequence[Partial],
) -> Measurement:
    """The figures of one or more measurements of the same thing, side by side."""
    rounds, blocks = range(options.rounds), range(block_count)

    def samples(block: int, batch: int, among: Sequence[int]) -> list[float]:
        all_times = [partial.get(repeat, batch) for partial in kept for repeat in among]
        return [times[block] for times in all_times if times is not None]

    cells = [[samples(block, batch, rounds) for batch in usable] for block in blocks]
    halves = (rounds[: options.repeats], rounds[options.repeats :])
    changes = [
        _change([[samples(block, batch, half) for block in blocks] for half in halves])
        for batch in usable
        if options.repeat_check
    ]
    return Measurement(
        device=seen.device,
        batch_sizes=tuple(usable),
        latency_us=tuple(tuple(statistics.median(cell) for cell in row) for row in cells),
        spread=tuple(tuple(spread_of(cell) for cell in row) for row in cells),
        notes=tuple(notes),
        facts=seen.facts,
        throttled=seen.throttled,
        repeatability=max(changes, default=None),
    )


def _change(halves: list[list[list[float]]]) -> float:
    """Difference of the whole model's time between two measurements, as a share of the first."""
    first, second = (sum(statistics.median(cell) for cell in half) for half in halves)
    return abs(second - first) / first if first else 0.0


def spread_of(samples: Sequence[float]) -> float:
    """Half the interquartile range as a share of the median."""
    if len(samples) < 2:
        return 0.0
    low, middle, high = statistics.quantiles(samples, n=4)
    return (high - low) / 2 / middle if middle else 0.0


def _no_memory(batch: int, device: str) -> str:
    return f"batch {batch} and larger: out of memory on {device}"


def _nothing() -> None:
    pass
