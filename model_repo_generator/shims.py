"""The fixed texts of version folders. Nothing of a deployment goes into code, whole numbers excepted."""

from __future__ import annotations

from collections.abc import Iterator

VERSION_FOLDER = "1"
ADAPTERS = ("dispatcher", "plain", "postprocess", "preprocess", "stage")

_MODEL = '''"""Written by ppipe generate; config.pbtxt in the folder above says what this is."""

from python_backend.triton.{adapter} import TritonPythonModel

__all__ = ["TritonPythonModel"]
'''

_SLICE = '''"""Written by ppipe generate; config.pbtxt in the folder above says what this is."""

import os

# A slice of a GPU under MPS. CUDA reads this once, when it starts, so it comes before any import of torch.
os.environ["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = "{percentage:d}"

from python_backend.triton.{adapter} import TritonPythonModel  # noqa: E402

__all__ = ["TritonPythonModel"]
'''


def model_py(adapter: str) -> str:
    """model.py of an adapter in python_backend.triton."""
    if adapter not in ADAPTERS:
        raise ValueError(f"no adapter {adapter!r}; there are {', '.join(ADAPTERS)}")
    return _MODEL.format(adapter=adapter)


def stage_py(mps_percentage: int | None) -> str:
    """model.py of a stage worker; with `mps_percentage` it may use that share of its GPU's threads."""
    if mps_percentage is None:
        return model_py("stage")
    return _SLICE.format(adapter="stage", percentage=mps_percentage)


def ensemble_version(folder: str) -> Iterator[tuple[str, str]]:
    """Triton wants a version folder of ensembles too, and git keeps no empty one."""
    yield f"{folder}/{VERSION_FOLDER}/.keep", ""
