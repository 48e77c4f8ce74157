# ruff: noqa: E501 (tables of inputs)
"""Fleets, addresses and traces as people write them: planned and read rightly, or refused in one line."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.helpers.wild.case import Answer, Expected, WildCase, ppipe
from planner.deployment import DeploymentError, load_deployment
from python_backend.simulator.errors import ArrivalError
from python_backend.simulator.traces import read_trace

TAKEN, REFUSED = Expected.TAKEN, Expected.REFUSED
SPEED = {"gflop_per_s": 6.4, "gbyte_per_s": 0.96}


def cases() -> Iterator[WildCase]:
    """Every fleet, host, set of ports and trace."""
    for each in FLEETS:
        yield WildCase(f"fleets-{each.id}", each.kind, each.expected, each.ask, each.names)
    for index, (host, names) in enumerate(HOSTS.items()):
        expected = REFUSED if names else TAKEN
        fleet = Fleet(f"host-{index}", "addresses", expected, {"entry": {"host": host}}, names)
        yield WildCase(f"fleets-{fleet.id}", fleet.kind, expected, fleet.read, names)
    for name, (content, names) in TRACES.items():
        trace = Trace(content)
        yield WildCase(f"fleets-trace-{name}", "traces", REFUSED if names else TAKEN, trace.ask, names)


def deployment(**changes: Any) -> dict[str, Any]:
    """A fleet of two classes for one small network; `changes` are of its cluster."""
    cluster: dict[str, Any] = {
        "bandwidth_gbps": 10,
        "gpu_classes": [
            {"name": "T4", "memory_gib": 15, "max_slices_per_gpu": 2},
            {"name": "L4", "memory_gib": 22.5},
        ],
        "groups": [
            {"gpu": "T4", "count": 2, "gpus_per_server": 1},
            {"gpu": "L4", "count": 1, "gpus_per_server": 1},
        ],
    }
    model = {
        "name": "street",
        "program": {
            "factory": "ensembles.zoo.pytorchcv_models:classifier",
            "arguments": {"name": "resnet18", "size": 64},
        },
        "input": {"name": "image", "shape": [3, 64, 64]},
        "slo_ms": 20,
        "preprocess": {"kind": "jpeg"},
    }
    return {"name": "wild", "cluster": cluster | changes, "models": [model]}


@dataclass(frozen=True)
class Fleet:
    """`changes` of the cluster. `fault` looks at the plan of one that is taken."""

    id: str
    kind: str
    expected: Expected
    changes: Mapping[str, Any]
    names: tuple[str, ...] = ()
    fault: Callable[[str], str] = field(default=lambda said: "")

    def read(self, folder: Path) -> Answer:
        """Only read the file."""
        path = self._write(folder)
        try:
            cluster = load_deployment(path).to_cluster()
        except DeploymentError as error:
            return Answer(taken=False, said=str(error))
        return Answer(taken=True, said=", ".join(server.name for server in cluster.servers))

    def ask(self, folder: Path) -> Answer:
        """Estimate a profile and plan, as a user does."""
        path = self._write(folder)
        profiled = ppipe("profile", str(path), "--estimate", "all", folder=folder)
        if not profiled.taken:
            return profiled
        planned = ppipe("plan", str(path), "--margin", "0.4", folder=folder, environment={"COLUMNS": "120"})
        return Answer(planned.taken, planned.said, self.fault(planned.said) if planned.taken else "")

    def _write(self, folder: Path) -> Path:
        path = folder / "deployment.yaml"
        path.write_text(yaml.safe_dump(deployment(**self.changes)))
        return path


def _servers(*servers: Mapping[str, Any], gpus: int = 1) -> list[dict[str, Any]]:
    return [{"gpu": "T4", "gpus_per_server": gpus, "servers": list(servers)}]


def _no_free_price(said: str) -> str:
    rows = [line for line in said.splitlines() if "A100" in line and "│" in line]
    return "the price of a class without servers is shown as 0" if any("+0 " in row for row in rows) else ""


CLASSES = [*deployment()["cluster"]["gpu_classes"], {"name": "A100", "memory_gib": 39.5}]
FLEETS = (
    Fleet("pools", "pools", TAKEN, {"groups": [
        {"gpu": "T4", "count": 3, "gpus_per_server": 1, "bandwidth_gbps": 4.75},
        {"gpu": "T4", "count": 1, "gpus_per_server": 4, "bandwidth_gbps": 50},
        {"gpu": "L4", "count": 1, "gpus_per_server": 1}]}, ("T4-x1", "T4-x4")),
    Fleet("pool-at-zero", "pools", REFUSED, {"groups": [{"gpu": "T4", "count": 0, "gpus_per_server": 1}]},
          (r"cluster\.groups\.0\.count", "leaving its group out")),
    Fleet("class-without-servers", "pools", TAKEN, {"gpu_classes": CLASSES}, ("no servers of A100",), _no_free_price),
    Fleet("bandwidth-in-words", "pools", REFUSED, {"groups": [
        {"gpu": "T4", "count": 1, "gpus_per_server": 1, "bandwidth_gbps": "Up to 25 Gigabit"}]},
          (r"cluster\.groups\.0\.bandwidth_gbps", "number")),
    Fleet("one-gpu-twice", "devices", REFUSED, {"groups": _servers(
        {"name": "a", "host": "h", "devices": [0]}, {"name": "b", "host": "h", "devices": ["0"]})},
          ("device 0 of h is stated for 'a' and 'b'",)),
    Fleet("two-mig-devices", "devices", REFUSED, {"groups": _servers(
        {"name": "a", "host": "h", "devices": ["MIG-aa", "MIG-bb"]}, gpus=2)}, ("one MIG device", "make a server for")),
    Fleet("uuids", "devices", TAKEN, {"groups": _servers(
        {"name": "a", "host": "h", "devices": ["GPU-aa"]}, {"name": "b", "host": "h", "devices": ["MIG-bb"]})}),
    Fleet("too-few-devices", "devices", REFUSED, {"groups": _servers(
        {"name": "a", "host": "h", "devices": [0]}, gpus=2)}, ("devices has 1 entries", "2 GPUs")),
    Fleet("port-by-hand", "ports", REFUSED, {"groups": _servers(
        {"name": "a", "host": "h"}, {"name": "b", "host": "h", "http_port": 18006})}, ("port 18006 of h", "'a'", "'b'")),
    Fleet("port-twice-in-one", "ports", REFUSED, {"groups": _servers(
        {"name": "a", "host": "h", "http_port": 8000, "grpc_port": 8000})}, ("port 8000 of h",)),
    Fleet("one-port-on-two-hosts", "ports", TAKEN, {"groups": _servers(
        {"name": "a", "host": "h1", "http_port": 8000}, {"name": "b", "host": "h2", "http_port": 8000})}),
)  # fmt: skip
HOSTS: Mapping[str, tuple[str, ...]] = {
    "127.0.0.1": (), "localhost": (), "gpu-7.rack2.example.": (), "GPU_node_1": (), "10.20.30.40": (),
    "": ("cluster.entry.host", "missing"), " gpu": ("spaces",), "https://gpu-1": ("URL",), "gpu-1:8001": ("gpu-1",),
    "::1": (), "[fd00::7]": (), "fe80::1%eth0": ("link-local",), "[::1]:8001": ("field of its own",), "::": ("listen",), "0.0.0.0": ("listen",), "300.1.1.1": ("IPv4",),
    "a,b": ("list",), "${NODE}": ("variables",), "b" * 70: ("63",), "größe.example": ("xn--",), "a/b": ("host name",),
}  # fmt: skip


@dataclass(frozen=True)
class Trace:
    """A file of arrivals; the right ones are TIMES, in any unit."""

    content: str | bytes

    def ask(self, folder: Path) -> Answer:
        """Read it as `ppipe simulate --arrivals trace:path=FILE` does."""
        path = folder / "trace.csv"
        path.write_bytes(self.content if isinstance(self.content, bytes) else self.content.encode())
        try:
            times = read_trace(path)
        except ArrivalError as error:
            return Answer(taken=False, said=str(error))
        scaled = (times - times[0]) / (times[-1] - times[0])
        right = len(times) == len(TIMES) and np.allclose(scaled, np.array(TIMES) / TIMES[-1], atol=1e-6)
        return Answer(taken=True, fault="" if right else "the times are others")


TIMES = (0.0, 0.5, 0.5, 3.25, 3.5, 11.0, 40.125)
START = datetime.datetime(2025, 3, 30, 1, 59, 58)
SECONDS = [str(5 + time) for time in TIMES]
DATES = [(START + datetime.timedelta(seconds=time)).isoformat(" ", "microseconds") for time in TIMES]


def _lines(header: str, rows: list[str]) -> str:
    return "\n".join([header, *rows] if header else rows) + "\n"


TRACES: Mapping[str, tuple[str | bytes, tuple[str, ...]]] = {
    "plain": (_lines("timestamp", SECONDS), ()),
    "bom-crlf": (b"\xef\xbb\xbf" + _lines("timestamp", SECONDS).replace("\n", "\r\n").encode(), ()),
    "utf-16": (_lines("timestamp", SECONDS).encode("utf-16"), ()),
    "no-header": (_lines("", SECONDS), ()),
    "reversed": (_lines("time", SECONDS[::-1]), ()),
    "semicolons": (_lines("arrival_time;n", [each.replace(".", ",") + ";1" for each in SECONDS]), ()),
    "dates": (_lines("TIMESTAMP,tokens", [f"{each}0,7" for each in DATES]), ()),
    "dates-utc": (_lines("timestamp", [f"{each.replace(' ', 'T')}Z" for each in DATES]), ()),
    "azure-2021": (_lines("app,end_timestamp,duration", [f"a,{5 + time + 2},2" for time in TIMES]), ()),
    "counts": (_lines("timestamp,requests", [f"{n},{n % 3}" for n in range(9)]), ("table of counts", "line 1")),
    "counts-per-minute": (_lines("app," + ",".join(map(str, range(1, 99))), ["a" + ",2" * 98]), ("table of counts",)),
    "running-number": (_lines("", [str(n) for n in range(50)]), ("count up by 1",)),
    "no-header-columns": (_lines("", [f"{n},{each}" for n, each in enumerate(SECONDS)]), ("no header",)),
    "other-columns": (_lines("id,when", [f"{n},{each}" for n, each in enumerate(SECONDS)]), ("id, when",)),
    "json": (_lines("", [f'{{"timestamp": {each}}}' for each in SECONDS]), ("JSON",)),
    "nan": (_lines("timestamp", [*SECONDS[:3], "nan", *SECONDS[3:]]), ("line 5", "nan")),
    "binary": (bytes(range(128, 256)), ("UTF-8",)),
    "empty": ("", ("no rows",)),
}  # fmt: skip
