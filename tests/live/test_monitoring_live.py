"""A real Prometheus watches a live deployment: every query of the dashboard and every selector of the alerts
gives series, alerts fire on real faults, and docs/metrics.md says what is exported.

Workers are emulated. No GPU is here, so Triton's figures of GPUs come from a page of the test's own, in
Triton's words; all else comes from the deployment.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import promql_parser
import pytest
import tritonclient.grpc as triton
import yaml
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from model_repo_generator.chains import chains_of
from model_repo_generator.emulated import (
    EmulatedModel,
    EmulatedPipeline,
    EmulatedStage,
    build_manifest,
    write_entries,
)
from planner import serial
from planner.frames import FrameCost
from planner.manifest import DeploymentManifest, ModelEntry
from planner.places import PLACE_NAME, StagePlace
from planner.profile import TensorSpec
from planner.serving import ServedEnds, ServedEntry, ServedHost
from ppipe.cli import run
from ppipe.serving.launcher import ServedDeployment
from ppipe.serving.ports import free_base
from tests.ensembles.recipes import recipe
from tests.live.handmade import free_ports
from tests.waiting import wait_for

pytestmark = [pytest.mark.live, pytest.mark.unhurried, pytest.mark.slow]

NAME = "street"
CUT, SCORES = (TensorSpec("cut", "FP32", (100,)),), (TensorSpec("scores", "FP32", (16,)),)
FRAME = {"width": 320, "height": 240, "bytes": 70_000}
GPU_PAGE = """\
# TYPE nv_gpu_utilization gauge
nv_gpu_utilization{gpu_uuid="GPU-0"} 0.5
# TYPE nv_gpu_memory_used_bytes gauge
nv_gpu_memory_used_bytes{gpu_uuid="GPU-0"} 1e9
# TYPE nv_gpu_memory_total_bytes gauge
nv_gpu_memory_total_bytes{gpu_uuid="GPU-0"} 1.6e10
"""
METRICS_PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
HASTE = {"5m": "10s", "15m": "10s", "1m": "10s", "$__rate_interval": "10s"}
"""Windows of queries and alerts here: a test has no minutes. As they are: tests/monitoring."""
STAGE_US = (12_000, 20_000)


def models() -> tuple[EmulatedModel, EmulatedModel]:
    """`cars`: two stages on server `a`, so that chains of them exist; `faces`: a worker on `b` alone."""
    prepare = recipe((3, 64, 64), frame=FRAME)
    pipelines = (
        EmulatedPipeline(2, (EmulatedStage(STAGE_US, ("a",), CUT), EmulatedStage(STAGE_US, ("a",), SCORES))),
        EmulatedPipeline(2, (EmulatedStage(STAGE_US, ("b",), SCORES),)),
    )
    image = TensorSpec("image", "FP32", (3, 64, 64))
    cars, faces = (
        EmulatedModel(name, 400_000, 20.0, image, (pipeline,), prepare=prepare)
        for name, pipeline in zip(("cars", "faces"), pipelines, strict=True)
    )
    return cars, faces


def entry_of(model: ModelEntry, server: str) -> ModelEntry:
    """With chains, and with the frame that it was planned for."""
    most = len(STAGE_US)
    ends = ServedEnds(0.0, 0.0, 0.0, 0.0, *[(100,) * most] * 4)
    way_in = ServedEntry(
        uplink="entry.up",
        downlink="entry.down",
        frame_bytes=FRAME["bytes"],
        frame_pixels=FRAME["width"] * FRAME["height"],
        prepare=FrameCost(fixed_us=1000.0),
        hosts=(ServedHost(server, cores=2),),
    )
    pipelines = tuple(replace(pipeline, ends=ends) for pipeline in model.served.pipelines)
    served = replace(model.served, entry=way_in, pipelines=pipelines)
    return replace(model, served=served, chains=chains_of(served))


@dataclass
class Watched:
    """A served deployment and the Prometheus that watches it."""

    served: ServedDeployment
    prometheus: str
    dashboard: dict[str, Any]
    rules: list[dict[str, Any]]

    @property
    def manifest(self) -> DeploymentManifest:
        return self.served.manifest

    def get(self, path: str, **parameters: str) -> Any:
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.prometheus}/api/v1/{path}?{query}", timeout=60) as answer:
            return json.load(answer)["data"]

    def series(self, query: str) -> list[Any]:
        found: list[Any] = self.get("query", query=hasty(query))["result"]
        return found

    def firing(self) -> dict[str, set[str]]:
        """Alerts that fire, each with the models that it names."""
        found: dict[str, set[str]] = {}
        for alert in self.get("alerts")["alerts"]:
            if alert["state"] == "firing":
                found.setdefault(alert["labels"]["alertname"], set()).add(alert["labels"].get("model", ""))
        return found

    def pid(self, server: str) -> int:
        (pid,) = (status.pid for status in self.served.statuses if status.name == server)
        assert pid is not None
        return pid


def hasty(query: str) -> str:
    """With short windows, all models, as Grafana puts its variables in."""
    for window, short in HASTE.items():
        query = query.replace(f"[{window}]", f"[{short}]")
    return query.replace("$model", ".*")


def hasten(alerts: Path) -> list[dict[str, Any]]:
    """Alerts that fire after a second; the expressions as they were, but for their windows."""
    plain = yaml.safe_load(alerts.read_text(encoding="utf-8"))
    rules = [rule for group in plain["groups"] for rule in group["rules"]]
    originals = [dict(rule) for rule in rules]
    for rule in rules:
        rule |= {"expr": hasty(rule["expr"]), "for": "1s"}
    alerts.write_text(yaml.safe_dump(plain), encoding="utf-8")
    return originals


@contextlib.contextmanager
def gpu_page() -> Iterator[int]:
    """A page of Triton's figures of a GPU; its port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(GPU_PAGE.encode())

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@contextlib.contextmanager
def prometheus_of(folder: Path) -> Iterator[str]:
    """Prometheus with prometheus.yml of this folder; its address."""
    binary = shutil.which("prometheus", path=str(Path(sys.prefix) / "prometheus/usr/bin")) or shutil.which(
        "prometheus"
    )
    if binary is None:
        pytest.skip("no prometheus here: scripts/setup unpacks it from Debian's package")
    with contextlib.ExitStack() as stack:
        for _ in range(3):  # a port that was free a moment ago may be another's now
            (port,) = free_ports(1)
            process = stack.enter_context(started(binary, folder, port))
            address = f"http://127.0.0.1:{port}"
            wait_for(
                lambda: process.poll() is not None or answers(f"{address}/-/ready"),  # noqa: B023
                found=(folder / "prometheus.log").read_text,
            )
            if process.poll() is None:
                yield address
                return
        pytest.fail((folder / "prometheus.log").read_text(encoding="utf-8"))


@contextlib.contextmanager
def started(binary: str, folder: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    command = [
        binary,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    ]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    root = tmp_path_factory.mktemp("watched")
    port = free_base(31_000, 16)
    entries = [
        entry_of(model, server)
        for model, server in zip(build_manifest(models(), port, NAME).models, "ab", strict=True)
    ]
    write_entries(root / "repository", entries, port + len(entries), NAME)
    slow_down(root / "repository", "faces", times=2)
    files = root / "monitoring"
    assert run(["monitoring", str(root / "repository"), "--interval", "1s"]) == 0
    rules = hasten(files / "alerts.yml")
    with (
        ServedDeployment(root / "repository", root / "logs") as served,
        gpu_page() as gpu,
    ):
        served.start()
        targets = json.loads((files / "targets.json").read_text(encoding="utf-8"))
        targets[1]["targets"].append(f"127.0.0.1:{gpu}")
        (files / "targets.json").write_text(json.dumps(targets), encoding="utf-8")
        with prometheus_of(files) as address, clients(served.manifest):
            board = json.loads((files / "dashboard.json").read_text(encoding="utf-8"))
            yield Watched(served, address, board, rules)


def slow_down(repository: Path, model: str, times: int) -> None:
    """Its workers take so many times what the dispatcher was told: a GPU that was throttled, say."""
    found = [file for file in repository.rglob(PLACE_NAME) if file.parent.name.startswith(f"{model}.")]
    assert found
    for file in found:
        place = serial.load(StagePlace, file)
        slower = replace(place, latency_us=tuple(times * us for us in place.latency_us))
        file.write_text(serial.dumps(slower), encoding="utf-8")


def jpeg(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (FRAME["height"], FRAME["width"], 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


class Sender(threading.Thread):
    """Sends frames to a model, so many a second, until it is told to end. Answers are not looked at."""

    def __init__(self, manifest: DeploymentManifest, model: str, rps: float) -> None:
        super().__init__()
        self._address, self._model, self._pause_s = manifest.entry.grpc_address, model, 1 / rps
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        tensor = triton.InferInput("jpeg", [1, 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[jpeg(1)]], dtype=np.object_))
        with triton.InferenceServerClient(self._address) as client:
            while not self.ending.wait(self._pause_s):
                with contextlib.suppress(triton.InferenceServerException):
                    client.async_infer(self._model, [tensor], lambda result, error: None)


@contextlib.contextmanager
def clients(manifest: DeploymentManifest, rps: float = 15.0, *names: str) -> Iterator[None]:
    """Frames to these models, or to all."""
    senders = [Sender(manifest, name, rps) for name in names or ("cars", "faces")]
    try:
        yield
    finally:
        for sender in senders:
            sender.ending.set()
        for sender in senders:
            sender.join()


def queries(dashboard: dict[str, Any]) -> list[str]:
    return [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]


def selectors(expression: Any) -> Iterator[str]:
    """Every selector in a parsed expression, without the window."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.prettify()
    for name in ("expr", "lhs", "rhs", "vector_selector"):
        if (part := getattr(expression, name, None)) is not None:
            yield from selectors(part)
    args = getattr(expression, "args", None)
    for part in args if isinstance(args, list) else []:
        yield from selectors(part)


def test_every_query_of_the_dashboard_gives_series(watched: Watched) -> None:
    asked = queries(watched.dashboard)
    assert len(asked) > 20

    def empty() -> list[str]:
        return [query for query in asked if not watched.series(query)]

    wait_for(lambda: not empty(), found=empty)


def test_the_variable_of_the_dashboard_lists_the_models(watched: Watched) -> None:
    (variable,) = (one for one in watched.dashboard["templating"]["list"] if one["name"] == "model")
    match = re.fullmatch(r"label_values\((.*), model\)", variable["query"]["query"])
    assert match
    found = functools.partial(watched.get, "label/model/values", **{"match[]": match[1]})
    wait_for(lambda: found() == ["cars", "faces"], found=found)


def test_every_selector_of_the_alerts_gives_series(watched: Watched) -> None:
    asked = {one for rule in watched.rules for one in selectors(promql_parser.parse(rule["expr"]))}
    assert len(asked) > 10

    def empty() -> list[str]:
        return [query for query in asked if not watched.series(query)]

    wait_for(lambda: not empty(), found=empty)


def test_more_load_than_planned_fires_its_alerts(watched: Watched) -> None:
    def found() -> bool:
        fires = watched.firing()
        return all("cars" in fires.get(name, ()) for name in ("PPipeBeyondPlan", "PPipeAttainmentLow"))

    with clients(watched.manifest, 250.0, "cars"):
        wait_for(found, found=watched.firing)


def test_a_stage_that_is_slower_than_profiled_fires_its_alert(watched: Watched) -> None:
    wait_for(lambda: "faces" in watched.firing().get("PPipeStageSlow", ()), found=watched.firing)


def documented() -> dict[str, tuple[str, str, str]]:
    """Rows of the page's table of what the dispatcher of a lone entry exports: type, labels, what."""
    text = METRICS_PAGE.read_text(encoding="utf-8").partition("## Where there are several entries")[0]
    rows = re.findall(r"^\| `(ppipe_\w+)` \| (\w+) \| ([^|]*)\| (.*) \|$", text, re.MULTILINE)
    return {name: (kind, labels.strip(), what) for name, kind, labels, what in rows}


def exported(manifest: DeploymentManifest) -> dict[str, tuple[str, str, str]]:
    """What all dispatchers export: type, labels other than `model`, what."""
    found: dict[str, tuple[str, str, str]] = {}
    for model in manifest.models:
        with urllib.request.urlopen(manifest.metrics_url(model), timeout=60) as page:
            for family in text_string_to_metric_families(page.read().decode()):
                labels = {label for sample in family.samples for label in sample.labels} - {"model"}
                name = f"{family.name}_total" if family.type == "counter" else family.name
                known = set(found.get(name, ("", "", ""))[1].split(", ")) - {""}
                found[name] = (family.type, ", ".join(sorted(labels | known)), family.documentation)
    return found


def test_the_page_of_metrics_says_what_is_exported(watched: Watched) -> None:
    """Name by name. The deployment has chains, frames to prepare, and enough of them for every figure."""
    told = documented()
    assert len(told) > 30
    wait_for(
        lambda: exported(watched.manifest) == told,
        found=lambda: sorted(exported(watched.manifest).items() ^ told.items()),
    )


def test_a_stopped_server_fires_its_alerts(watched: Watched) -> None:
    """It neither answers nor ends: its batches fail, its worker is out, its shared memory is held back."""
    wanted = {"PPipeWorkerDown", "PPipeHopsFail", "PPipeNoWorker", "PPipeSlotsQuarantined"}
    wait_for(lambda: not fired_for_faces(watched) & wanted, found=watched.firing)
    pid = watched.pid("b")
    fired: set[str] = set()  # one may end before another begins: their windows are short here

    def all_fired() -> bool:
        fired.update(fired_for_faces(watched))
        return wanted <= fired

    os.kill(pid, signal.SIGSTOP)
    try:
        wait_for(all_fired, found=lambda: (fired, watched.firing()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def fired_for_faces(watched: Watched) -> set[str]:
    return {name for name, models in watched.firing().items() if "faces" in models}


def test_the_end_of_the_entry_fires_its_alert(watched: Watched) -> None:
    """The last test: nothing is served afterwards."""
    watched.served.stop()
    wait_for(lambda: "PPipeEntryDown" in watched.firing(), found=watched.firing)
