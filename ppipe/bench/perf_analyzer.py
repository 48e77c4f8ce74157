"""Runs the real perf_analyzer against a served deployment: an independent client, below saturation.

perf_analyzer ends at the first rejected request, so it cannot measure goodput where frames may be dropped; it
cross-checks our own client on a load that is served in full.
"""

from __future__ import annotations

import base64
import csv
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tritonclient.grpc import service_pb2

from ppipe.serving.binaries import find_perf_analyzer
from ppipe.serving.processes import GuardedProcess

_STARTUP_S = 30.0
_LINES_SHOWN = 8
_WINDOWS = 3
"""The fewest that perf_analyzer takes."""


class PerfError(Exception):
    """perf_analyzer did not end well; the message has its last words."""


@dataclass(frozen=True)
class PerfReport:
    """What perf_analyzer reports of one run; latencies in ms."""

    asked_rps: float
    throughput_rps: float
    p50_ms: float
    p99_ms: float


def run_perf_analyzer(
    *,
    model: str,
    address: str,
    requests: Sequence[service_pb2.ModelInferRequest],
    rate_rps: float,
    seconds: float,
    folder: Path,
    batch: int = 1,
) -> PerfReport:
    """`requests`: frames to send in turn, so many in each request. Files go to `folder`.

    Raises PerfError, BinaryMissing.
    """
    analyzer = find_perf_analyzer()
    data, report = folder / "perf_analyzer_input.json", folder / "perf_analyzer.csv"
    data.write_text(json.dumps(input_data(requests)), encoding="utf-8")
    report.unlink(missing_ok=True)
    command = [
        *(str(analyzer.path), "-m", model, "-i", "grpc", "-u", address, "--async"),
        *("--input-data", str(data), "-f", str(report), "--percentile=99", "--max-threads=2"),
        *(f"--request-rate-range={rate_rps:.3f}", "--request-distribution=constant"),
        # So many windows and no more: no search for stability. (--request-count counts its start-up as time.)
        *(f"--measurement-interval={round(1000 * seconds / _WINDOWS)}", f"--max-trials={_WINDOWS}"),
        "--stability-percentage=999",
        f"-b{batch}",
    ]
    for tensor in requests[0].inputs:
        shape = list(tensor.shape)[1:]
        command.append(f"--shape={tensor.name}:{','.join(map(str, shape))}")
    words = _run(command, analyzer.environment, folder / "perf_analyzer.log", timeout_s=seconds + _STARTUP_S)
    if not report.is_file():
        raise PerfError(f"perf_analyzer wrote no report: {words}")
    return read_report(report, rate_rps)


def input_data(requests: Sequence[service_pb2.ModelInferRequest]) -> dict[str, list[Mapping[str, object]]]:
    """perf_analyzer's JSON input: base64 of each tensor as it travels."""
    return {"data": [_one_input(request) for request in requests]}


def read_report(path: Path, asked_rps: float) -> PerfReport:
    """The one line of perf_analyzer's CSV. Raises PerfError."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    try:
        (row,) = rows
        return PerfReport(
            asked_rps=asked_rps,
            throughput_rps=float(row["Inferences/Second"]),
            p50_ms=float(row["p50 latency"]) / 1e3,
            p99_ms=float(row["p99 latency"]) / 1e3,
        )
    except (KeyError, ValueError) as error:
        raise PerfError(f"{path}: not a report of one run: {error}") from error


def _one_input(request: service_pb2.ModelInferRequest) -> Mapping[str, object]:
    return {
        tensor.name: {"b64": base64.b64encode(content).decode(), "shape": list(tensor.shape)[1:]}
        for tensor, content in zip(request.inputs, request.raw_input_contents, strict=True)
    }


def _run(command: Sequence[str], environment: Mapping[str, str], log: Path, timeout_s: float) -> str:
    """The last lines that it said. Under a guard, so that it does not outlive us."""
    log.unlink(missing_ok=True)
    process = GuardedProcess.start(command, log=log, environment=environment, grace_s=1.0)
    try:
        status = process.wait(timeout_s)
    except subprocess.TimeoutExpired as error:
        raise PerfError(f"perf_analyzer did not end within {timeout_s:.0f} s; see {log}") from error
    finally:
        process.kill()
    last = "\n".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-_LINES_SHOWN:])
    if status != 0:
        raise PerfError(f"perf_analyzer ended with status {status}:\n{last}")
    return last
