"""The fixed texts of version folders. Nothing of a deployment goes into code, whole numbers excepted."""

from __future__ import annotations

from collections.abc import Iterator

from model_repo_generator.writing.bundle import BUNDLE

VERSION_FOLDER = "1"
"""Of what has no revisions, and of the first one."""
ADAPTERS = ("cascade", "dispatcher", "plain", "stage")

_HEAD = '''"""Written by ppipe generate; config.pbtxt in the folder above says what this is."""
'''

_SLICE = """
import os

# A slice of a GPU under MPS. CUDA reads this once, when it starts, so it comes before any import of torch.
os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "{percentage:d}"
"""

_BUNDLED = """
import sys
from pathlib import Path

# The repository carries the run time: <repository>/groups/<group>/<model>/<version>/model.py.
sys.path.insert(0, str(Path(__file__).resolve().parents[4] / "{bundle}"))
"""

_ADAPTER = """
from python_backend.triton.{adapter} import TritonPythonModel

__all__ = ["TritonPythonModel"]
"""


def model_py(adapter: str, bundled: bool = False, mps_percentage: int | None = None) -> str:
    """model.py of an adapter in python_backend.triton.

    `bundled`: it takes the run time from the repository. `mps_percentage`: share of its GPU's threads.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"no adapter {adapter!r}; there are {', '.join(ADAPTERS)}")
    parts = [
        _HEAD,
        _SLICE.format(percentage=mps_percentage) if mps_percentage is not None else "",
        _BUNDLED.format(bundle=BUNDLE) if bundled else "",
        _ADAPTER.format(adapter=adapter),
    ]
    return "".join(parts)


def ensemble_version(folder: str, version: str) -> Iterator[tuple[str, str]]:
    """Triton wants a version folder of ensembles too, and git keeps no empty one."""
    yield f"{folder}/{version}/.keep", ""
