"""What a stub costs before its first batch, with torch's executor and with ONNX Runtime's.

Two processes do what a stage's stub does: import the stage, load its program, warm up, run one batch. Time is
from their start to that batch's end, memory is what is resident then.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.helpers.gpu.profile import REHEARSED
from benchmarks.helpers.networks.onnx_zoo import export
from planner import serial
from planner.cluster import Executor
from planner.deployment import ProgramSpec
from planner.manifest import StageProgram
from planner.plan import BlockRange
from planner.profiling.split import split_model

FRAME = (3, 224, 224)
RUNS = 3
_STUB = """
import sys
from pathlib import Path
import numpy as np
import python_backend.stage.factory
from planner import serial
from planner.manifest import StageProgram
from python_backend.stage.executors.base import make_executor

folder = Path(sys.argv[1])
executor = make_executor(serial.load(StageProgram, folder / "program.json"), folder, first_stage=True)
executor.warm_up()
executor.run([np.zeros((1, 3, 224, 224), np.float32)])
lines = Path("/proc/self/status").read_text().splitlines()
print(next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")), "torch" in sys.modules)
"""


def stubs() -> Mapping[str, Any]:
    """By kind: seconds to the first batch's end and MB resident, medians; and whether torch was imported."""
    spec = REHEARSED.spec(shape=FRAME, preprocess=None, postprocess=None)
    found: dict[str, Any] = {"network": f"{spec.name} 224 x 224, in one stage"}
    with tempfile.TemporaryDirectory(prefix="ppipe-stubs-") as folder:
        file = Path(folder) / "net.onnx"
        export(REHEARSED, FRAME, file)
        kinds = {"torch": spec, "onnx": spec.model_copy(update={"program": ProgramSpec(onnx=file)})}
        for kind, each in kinds.items():
            split = split_model(each)
            whole = BlockRange(0, split.block_count)
            name = f"{kind}.{split.network.format.value}"
            split.network.save(split.part(whole), Path(folder) / name)
            program = StageProgram(name, "", split.inputs, split.outputs, Executor.CPU, max_batch_size=4)
            (Path(folder) / "program.json").write_text(serial.dumps(program), encoding="utf-8")
            found[kind] = _measured(Path(folder))
    return found


def _measured(folder: Path) -> Mapping[str, Any]:
    seconds, megabytes, torch = [], [], False
    for _ in range(RUNS):
        began = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-c", _STUB, str(folder)], capture_output=True, text=True, check=True
        )
        seconds.append(time.perf_counter() - began)
        kilobytes, imported = done.stdout.split()
        megabytes.append(int(kilobytes) / 1024)
        torch = torch or json.loads(imported.lower())
    return {
        "start_s": round(statistics.median(seconds), 2),
        "resident_mb": round(statistics.median(megabytes)),
        "imports_torch": torch,
    }
