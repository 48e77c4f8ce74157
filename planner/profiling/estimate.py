"""Latency from operations and bytes, without a device: the roofline of a stated speed.

latency(b) = b * flops / gflop_per_s + (weights + b * activations) / gbyte_per_s + overhead_us per block.
Weights are read once per batch, so larger batches are cheaper per frame, and no batch is faster than a
smaller one.
"""

from __future__ import annotations

from planner.cluster import StatedSpeed
from planner.profiling.network import Cost


def latency_us(cost: Cost, speed: StatedSpeed, batch_size: int) -> float:
    """Microseconds for a batch through operators of this cost, at a stated speed, overhead counted once."""
    compute_us = batch_size * cost.flops / (speed.gflop_per_s * 1e3)
    moved = cost.weight_bytes + batch_size * cost.activation_bytes
    return compute_us + moved / (speed.gbyte_per_s * 1e3) + speed.overhead_us
