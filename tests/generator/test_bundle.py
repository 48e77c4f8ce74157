"""A self-contained repository brings all of ours that its models import."""

import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

import pytest

from model_repo_generator.checking.on_disk import check
from model_repo_generator.generate import generate
from model_repo_generator.writing.bundle import bundle_files
from planner.deployment import parse_deployment
from planner.plan import Plan
from planner.profile import Profile
from tests.generator.conftest import FAST

# What a stub does, with a stand-in for Triton's module. -S hides this checkout, which .pth files bring in.
IMPORT = """
import importlib.util, sys, types
sys.path.append({packages!r})
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
spec = importlib.util.spec_from_file_location("model", {model!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(sys.modules[module.TritonPythonModel.__module__].__file__)
"""


@pytest.mark.parametrize(
    ("group", "name"),
    [
        ("entry", "net"),
        ("fast", FAST),
    ],
)
def test_its_models_import_from_it_alone(
    data: dict[str, Any], profile: Profile, plan: Plan, tmp_path: Path, group: str, name: str
) -> None:
    for gpu_class in data["cluster"]["gpu_classes"]:
        gpu_class["executor"] = "emulated"
    deployment = parse_deployment(data, "test")
    out = tmp_path / "repository"
    generate(deployment, profile, plan, out, self_contained=True)
    program = IMPORT.format(
        packages=sysconfig.get_paths()["purelib"], model=str(out / "groups" / group / name / "1/model.py")
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(out / "runtime"))
    assert check(deployment, profile, plan, out) == (), "bytecode of ours is no difference"


def test_it_brings_no_solver_no_simulator_and_no_torch_of_the_planner() -> None:
    paths = set(bundle_files())
    assert "runtime/python_backend/stage/executors/torch_program.py" in paths
    assert not [path for path in paths if "simulator" in path or "solver" in path or "profiling" in path]
