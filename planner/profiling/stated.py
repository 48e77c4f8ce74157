"""Tables of classes with a stated speed: the small roofline of planner.profiling.estimate."""

from __future__ import annotations

from planner.cluster import GpuClass, StatedSpeed
from planner.profile import LatencyTable, Source
from planner.profiling.estimate import latency_us
from planner.profiling.split import Split


def stated_tables(
    split: Split, gpu_class: GpuClass, speed: StatedSpeed, batch_sizes: tuple[int, ...]
) -> list[LatencyTable]:
    """The roofline's tables for whole GPUs and their slices; a slice has its share of both speeds."""
    costs = [split.cost(block) for block in range(split.block_count)]
    sizes = tuple(sorted(set(batch_sizes)))
    tables = []
    for slices in range(1, gpu_class.max_slices_per_gpu + 1):
        share = StatedSpeed(
            gflop_per_s=speed.gflop_per_s / slices,
            gbyte_per_s=speed.gbyte_per_s / slices,
            overhead_us=speed.overhead_us,
        )
        tables.append(
            LatencyTable(
                gpu=gpu_class.name,
                slices_per_gpu=slices,
                batch_sizes=sizes,
                latency_us=tuple(tuple(latency_us(cost, share, batch) for batch in sizes) for cost in costs),
                source=Source.STATED,
            )
        )
    return tables
