"""Which backend runs a model and which file it reads: the defaults that a Triton server fills in.

Filled in whether or not auto-complete is on; auto-complete proper (tensors, batching) is the backend's work.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from model_repo_generator.lint import python_code
from model_repo_generator.lint.folders import LintedFolder, NotReadable
from model_repo_generator.lint.releases import Release
from model_repo_generator.lint.versions import served_versions


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


AOTI = "torch_aoti"
"""Platform of what torch.export and AOTInductor make: model.pt2."""
KNOWN: Mapping[str, Backend] = {
    "tensorflow": Backend(
        platforms=("tensorflow_savedmodel", "tensorflow_graphdef"),
        files=("model.savedmodel", "model.graphdef"),
    ),
    "tensorrt": Backend(platforms=("tensorrt_plan",), files=("model.plan",)),
    "onnxruntime": Backend(platforms=("onnxruntime_onnx",), files=("model.onnx",)),
    "openvino": Backend(files=("model.xml",)),
    "pytorch": Backend(platforms=("pytorch_libtorch", AOTI), files=("model.pt", "model.pt2")),
    "python": Backend(files=("model.py",)),
}
SINCE: Mapping[str, Release] = {AOTI: Release(65)}
"""Platforms that older releases do not know."""
SINCE_SOURCE = "read, not run: server issue 8414, core PR 484; 2.65 is the first release after its PR"
PYTHON_RUNTIME = "model.py"
"""`runtime` of a backend that is written in Python."""
PYTORCH_RUNTIME_FILES = ("model.py", "model.pt")
"""Of the PyTorch backend's Python runtime, either: a class (with weights or without), or a TorchScript."""
OTHERS = frozenset({"dali", "fil", "identity", "repeat", "square", "tensorrtllm", "vllm"})
"""Published backends with no file of a fixed name."""
ENSEMBLE = "ensemble"


def complete(config: Any, folder: LintedFolder, release: Release) -> str:
    """Fill in the configuration's name, and the platform that a file tells; give the backend's name.

    '' for an ensemble or where nothing tells.
    """
    if not config.name:
        config.name = folder.name
    if config.backend:
        return str(config.backend)
    if config.platform:
        return next((name for name, known in KNOWN.items() if config.platform in known.platforms), "")
    if config.default_model_filename:
        wanted = config.default_model_filename
        return next((name for name, known in KNOWN.items() if wanted in known.files), "")
    return _by_files(config, folder, release) or _by_name(folder)


def model_file(config: Any, backend: str) -> str:
    """What each served version's folder must hold; '' where there is no rule."""
    if config.default_model_filename:
        return str(config.default_model_filename)
    known = KNOWN.get(backend)
    return known.file_of(config.platform) if known is not None else ""


def may_complete(config: Any, backend: str, folder: LintedFolder) -> bool:
    """Whether the backend may add tensors to a configuration, or what they lack, where a server lets it.

    TorchScript has no names, types or shapes, so the PyTorch backend completes nothing (release notes of
    Triton, known issues); a Python model does if its class has auto_complete_config.
    """
    if backend == "pytorch":
        return bool(config.runtime == PYTHON_RUNTIME or config.platform == AOTI)
    if backend != "python":
        return bool(backend)
    for version in served_versions(config, folder.versions):
        relative = f"{folder.versions.numbers[version]}/{model_file(config, backend)}"
        try:
            tree = python_code.parse(folder.read(relative), relative)
            return python_code.may_complete(tree)
        except (NotReadable, SyntaxError, ValueError):
            return True  # which is a fault of its own
    return True


def _by_files(config: Any, folder: LintedFolder, release: Release) -> str:
    """The backend whose default file the first folder holds, in the order in which the server asks."""
    first = min((name for name in folder.folders if "/" not in name), default="")
    for name, known in KNOWN.items():
        for nth, file in enumerate(known.files):
            platform = known.platforms[nth] if nth < len(known.platforms) else ""
            if platform in SINCE and release < SINCE[platform]:
                continue
            if folder.has(f"{first}/{file}"):
                config.platform = platform if platform in SINCE else config.platform
                return name
    return ""


def _by_name(folder: LintedFolder) -> str:
    """`<anything>.<backend>`: the server's last guess."""
    return folder.name.partition(".")[2]


def names() -> Iterator[str]:
    """Backends that NVIDIA publishes."""
    yield from KNOWN
    yield from sorted(OTHERS)
