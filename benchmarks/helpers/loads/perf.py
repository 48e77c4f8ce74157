"""perf_analyzer as a load for benchmarks: closed loop, short runs, its own CSV."""

from __future__ import annotations

import csv
import os
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ppipe.serving.binaries import find_perf_analyzer

_WINDOWS = 3


class PerfFailed(RuntimeError):
    """perf_analyzer ended with an error; the text is its own."""


@dataclass(frozen=True)
class PerfResult:
    """Inferences per second and the client's latencies."""

    rps: float
    p50_us: float
    p99_us: float


def run_perf(
    address: str, model: str, concurrency: int, requests: int, shape: str = "", extra: Sequence[str] = ()
) -> PerfResult:
    """About `requests` answers at a fixed number of outstanding requests. Raises PerfFailed."""
    analyzer = find_perf_analyzer()
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.csv"
        command = [
            *(str(analyzer.path), "-m", model, "-i", "grpc", "-u", address, "-f", str(report)),
            *("--concurrency-range", f"{concurrency}:{concurrency}", "--async"),
            # Three windows, the fewest it takes, and any spread. (--request-count rounds to whole seconds.)
            *("--measurement-mode=count_windows", f"--measurement-request-count={requests // _WINDOWS}"),
            *("--stability-percentage=999", f"--max-trials={_WINDOWS}", "--percentile=99"),
            *(("--shape", shape) if shape else ()),
            *extra,
        ]
        done = subprocess.run(
            command, env=os.environ | analyzer.environment, capture_output=True, text=True, timeout=120
        )
        if done.returncode != 0 or not report.is_file():
            raise PerfFailed(f"perf_analyzer on {model}: {(done.stderr or done.stdout)[-800:]}")
        with report.open() as text:
            (row,) = csv.DictReader(text)
    return PerfResult(
        rps=float(row["Inferences/Second"]),
        p50_us=float(row["p50 latency"]),
        p99_us=float(row["p99 latency"]),
    )
