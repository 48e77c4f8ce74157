"""One checkout's dispatchers, asked for windows of load by lines; benchmarks.dispatch_turns runs it.

It is run by its path in the checkout that is measured, also in one that has no such file, so it takes what it
measures with from there. Standard input: first {latency_us: {size: of a batch}, stages: address of their
server}, then a line `SIZE KIND REQUESTS` for each window. Standard output: `ready`, then a JSON object for
each window: us of processor time per frame, of all processes that take part and of each, and frames/s.
"""

from __future__ import annotations

import importlib
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

_WITH_ADDRESSES = ("deployment.json", "addresses.json")


def main() -> None:
    """Serve until the input ends."""
    dispatch, launcher = _imported("dispatch"), _imported("launcher")
    asked = json.loads(sys.stdin.readline())
    with tempfile.TemporaryDirectory(prefix="ppipe-dispatch-stand-") as folder:
        root = Path(folder)
        dispatch._write(root / "repository", asked["latency_us"])
        for name in _WITH_ADDRESSES:
            move_stages(root / "repository" / name, asked["stages"])
        with launcher.ServedDeployment(root / "repository", root / "logs") as deployment:
            deployment.start()
            print("ready", flush=True)
            for line in sys.stdin:
                size, kind, requests = line.split()
                print(json.dumps(window(dispatch, deployment, root, size, kind, int(requests))), flush=True)


def move_stages(manifest: Path, address: str) -> None:
    """Have the stages' servers at this address, which makes it another host where it is not the entry's."""
    if manifest.is_file():  # older revisions have all addresses in one file
        told = json.loads(manifest.read_text())
        for server in told["servers"]:
            server["host"] = address
        manifest.write_text(json.dumps(told))


def window(dispatch: Any, deployment: Any, root: Path, size: str, kind: str, requests: int) -> dict[str, Any]:
    """One window of load at one kind of dispatcher: {cpu_us, parts: {role: cpu_us}, rps}."""
    entry = deployment.manifest.entry
    address = f"{entry.host}:{entry.grpc_port}"
    # A pool's dispatcher was a step of an ensemble once, with a name of its own.
    model = f"{kind}_{size}_dispatch"
    if not (root / "repository" / "groups" / "entry" / model).is_dir():
        model = f"{kind}_{size}"
    before, frames = dispatch.cpu_time_of(deployment), dispatch.frames_of(address, model)
    measured = dispatch.run_perf(address, model, dispatch.SIZES[size][1], requests)
    frames = dispatch.frames_of(address, model) - frames
    used_us = dispatch._by_role(dispatch.cpu_time_of(deployment).since(before), dispatch.Kind(kind, model))
    parts = {role: used / frames for role, used in used_us.items()}
    return {"cpu_us": sum(parts.values()), "parts": parts, "rps": measured.rps}


def _imported(name: str) -> Any:
    """A module of the checkout, by where revisions have it."""
    homes = {
        "dispatch": ("benchmarks.dispatch", "ppipe.benchmarks.dispatch"),
        "launcher": ("ppipe.serving.launcher", "ppipe.launcher"),
    }[name]
    for home in homes:
        try:
            return importlib.import_module(home)
        except ModuleNotFoundError as error:
            if error.name is None or not home.startswith(error.name):
                raise
    raise ModuleNotFoundError(f"none of {', '.join(homes)} is in this checkout")


if __name__ == "__main__":
    main()
