"""How long a busy worker idles between two batches: does a batch's way hide behind the compute of the last?

One emulated worker on a real tritonserver, held for LATENCY_US per batch, is kept busy by a dispatcher in
this process, for small and for large frames, and with the dispatcher running ahead by different times
(lead_us). The stage's own notices tell when each batch began and ended. Gaps are from the end of a batch to
the moment at which the worker takes the next one. Emulated.
"""

from __future__ import annotations

import itertools
import os
import statistics
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.helpers.report import main
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    write_deployment,
)
from planner import serial
from planner.manifest import MANIFEST_NAME, DeploymentManifest
from planner.profile import TensorSpec
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from python_backend.dispatcher.driver import Driver
from python_backend.dispatcher.factory import make_dispatcher
from python_backend.dispatcher.frames.frame import ErrorCode, Frame
from python_backend.wire.clock import now_us
from python_backend.wire.feedback import Notice
from python_backend.wire.signing.keys import KEY_FILE_VARIABLE

BATCH = 8
LATENCY_US = 15_000
SIZES = {"64b": 16, "600kb": 153_600}
"""FP32 numbers per frame."""
_OUTPUT = (TensorSpec("scores", "FP32", (16,)),)
_OUTSTANDING = 4 * BATCH
_SLO_US = 2_000_000
_FIRST = 10
"""Batches before the worker is in its stride."""


def run(leads_us: tuple[float, ...] = (0.0, 1_000.0, 3_000.0), batches: int = 150) -> Mapping[str, Any]:
    """The figures of this benchmark, milliseconds."""
    figures: dict[str, Any] = {"emulated": True, "latency_ms": LATENCY_US / 1e3, "batch": BATCH}
    for size in SIZES:
        for lead_us in leads_us:
            figures[f"gap_ms_{size}_lead_{lead_us / 1e3:g}ms"] = _gaps(size, int(lead_us), batches)
    return figures


def _gaps(size: str, lead_us: int, batches: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="ppipe-overlap-") as folder:
        root = Path(folder)
        manifest = _write(root / "repository", size)
        with ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            os.environ[KEY_FILE_VARIABLE] = str(root / "logs" / "ticket.key")
            parameters = {"lead_us": str(lead_us)}
            notices: list[Notice] = []
            dispatcher = make_dispatcher(
                manifest, manifest.models[0], parameters, lambda text: None, watch=notices.append
            )
            try:
                _Load(dispatcher.driver, SIZES[size] * 4, notices).run(batches)
            finally:
                dispatcher.close()
    return _figures(notices[_FIRST:])


def _write(root: Path, size: str) -> DeploymentManifest:
    """A deployment whose entry is this process: no entry server is started."""
    stage = EmulatedStage((LATENCY_US,) * BATCH, ("stage",), _OUTPUT)
    model = EmulatedModel(
        name="overlap",
        slo_us=_SLO_US,
        planned_rps=BATCH / LATENCY_US * 1e6,
        input=TensorSpec("frame", "FP32", (SIZES[size],)),
        pipelines=(EmulatedPipeline(batch_size=BATCH, stages=(stage,)),),
    )
    manifest = write_deployment(root, [model], free_base(35_000, 12))
    manifest = replace(manifest, entry=replace(manifest.entry, models=()))
    (root / MANIFEST_NAME).write_text(serial.dumps(manifest))
    return manifest


class _Load:
    """Keeps so many frames outstanding until enough notices have come."""

    def __init__(self, driver: Driver, frame_bytes: int, notices: list[Notice]) -> None:
        self._driver = driver
        self._frame = memoryview(bytes(frame_bytes))
        self._notices = notices
        self._next_id = 0
        self._done = threading.Event()
        self._wanted = 0

    def run(self, batches: int) -> None:
        self._wanted = batches + _FIRST
        self._driver.arrive([self._new_frame() for _ in range(_OUTSTANDING)])
        self._done.wait(60.0 + 2 * batches * LATENCY_US / 1e6)

    def _new_frame(self) -> Frame:
        self._next_id += 1
        at_us = now_us()
        return Frame(self._next_id, self._frame, at_us, at_us + _SLO_US, self._answered, self._failed)

    def _answered(self, outputs: object) -> None:
        if len(self._notices) < self._wanted:
            self._driver.arrive([self._new_frame()])
        else:
            self._done.set()

    def _failed(self, code: ErrorCode, text: str) -> None:
        self._answered(text)


def _figures(notices: list[Notice]) -> dict[str, float]:
    times = [(each.ended_us - each.busy_us, each.ended_us) for each in notices if each.ended_us is not None]
    gaps_ms = [max(0, began - ended) / 1e3 for (_, ended), (began, _) in itertools.pairwise(times)]
    deciles = statistics.quantiles(gaps_ms, n=20)
    return {
        "p50": round(statistics.median(gaps_ms), 2),
        "p95": round(deciles[-1], 2),
        "share_below_1ms": round(statistics.mean(gap < 1.0 for gap in gaps_ms), 3),
        "batches": len(gaps_ms),
    }


if __name__ == "__main__":
    main(__doc__, run, leads_us=(0.0, 1_000.0, 3_000.0), batches=150)
