"""Which backend runs a model and which file it reads: the defaults that a Triton server fills in.

Filled in whether or not auto-complete is on; auto-complete proper (tensors, batching) is the backend's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_repo_generator.lint.folders import ModelFolder


@dataclass(frozen=True)
class Backend:
    """A backend that the server knows by name. `platforms`: those it may be given, the default first.

    `files`: default name of the model file or folder, per platform; one alone holds for all.
    """

    platforms: tuple[str, ...] = ()
    files: tuple[str, ...] = ()

    def file_of(self, platform: str) -> str:
        """The default name of what a version folder must hold; '' where the backend has no rule."""
        if not self.files:
            return ""
        at = self.platforms.index(platform) if platform in self.platforms else 0
        return self.files[at] if at < len(self.files) else self.files[0]


KNOWN: Mapping[str, Backend] = {
    "tensorflow": Backend(
        platforms=("tensorflow_savedmodel", "tensorflow_graphdef"),
        files=("model.savedmodel", "model.graphdef"),
    ),
    "tensorrt": Backend(platforms=("tensorrt_plan",), files=("model.plan",)),
    "onnxruntime": Backend(platforms=("onnxruntime_onnx",), files=("model.onnx",)),
    "openvino": Backend(files=("model.xml",)),
    "pytorch": Backend(platforms=("pytorch_libtorch",), files=("model.pt",)),
    "python": Backend(files=("model.py",)),
}
OTHERS = frozenset({"dali", "fil", "identity", "repeat", "square", "tensorrtllm", "vllm"})
"""Published backends with no file of a fixed name."""
ENSEMBLE = "ensemble"


def complete(config: Any, folder: ModelFolder) -> str:
    """Fill in the configuration's name; give the backend's, '' for an ensemble or where nothing tells."""
    if not config.name:
        config.name = folder.name
    if config.backend:
        return str(config.backend)
    if config.platform:
        return next((name for name, known in KNOWN.items() if config.platform in known.platforms), "")
    if config.default_model_filename:
        wanted = config.default_model_filename
        return next((name for name, known in KNOWN.items() if wanted in known.files), "")
    return _by_files(folder) or _by_name(folder)


def model_file(config: Any, backend: str) -> str:
    """What each served version's folder must hold; '' where there is no rule."""
    if config.default_model_filename:
        return str(config.default_model_filename)
    known = KNOWN.get(backend)
    return known.file_of(config.platform) if known is not None else ""


def _by_files(folder: ModelFolder) -> str:
    """The backend whose default file the first folder holds, in the order in which the server asks."""
    first = min((name for name in folder.folders if "/" not in name), default="")
    for name, known in KNOWN.items():
        if any(folder.has(f"{first}/{file}") for file in known.files):
            return name
    return ""


def _by_name(folder: ModelFolder) -> str:
    """`<anything>.<backend>`: the server's last guess."""
    return folder.name.partition(".")[2]


def names() -> Iterator[str]:
    """Backends that NVIDIA publishes."""
    yield from KNOWN
    yield from sorted(OTHERS)
