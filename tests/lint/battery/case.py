"""One configuration of the battery: a small repository, what the server does with it, what the linter says.

In all texts `@` stands for the case's name: every case has Triton models of its own, so that one server can
be asked about all of them.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

MODEL_PY = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self._doubled(request) for request in requests]

    def _doubled(self, request):
        x = pb_utils.get_input_tensor_by_name(request, "x").as_numpy()
        return pb_utils.InferenceResponse(output_tensors=[pb_utils.Tensor("y", 2 * x)])
"""

X = 'input [ { name: "x" data_type: TYPE_FP32 dims: [ 4 ] } ]'
Y = 'output [ { name: "y" data_type: TYPE_FP32 dims: [ 4 ] } ]'


class Outcome(Enum):
    """What Triton 2.51.0 does when it is asked to load the case's model."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    HANGS = "hangs"
    """Loading never ends, and one of the server's loading threads with it."""
    DIES = "dies"
    """The server itself ends."""
    DIES_OR_REFUSED = "dies or refused"
    """By chance: the server reads memory that it no longer has."""


@dataclass(frozen=True)
class Case:
    """`files` by path in the repository; a path that ends in '/' is an empty folder.

    `codes`: all that the linter must find of the model; of one refused, some of it. `load`: the model that
    the server is asked for. `links`: where each symbolic link leads.
    """

    name: str
    outcome: Outcome
    codes: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    load: str = "@"
    links: Mapping[str, str] = field(default_factory=dict)
    deadly_by_chance: bool = False
    """Refused, and now and then the server ends a moment later."""
    library: str = ""
    """A file that stands for a backend's library; the real one of the Python backend, where it is loaded."""

    @property
    def model(self) -> str:
        """The Triton model that the server is asked to load."""
        return self.load.replace("@", self.name)

    def write(self, root: Path) -> Path:
        """The case's repository below `root`."""
        repository = root / self.name
        repository.mkdir()
        for path, text in self.files.items():
            target = repository / path.replace("@", self.name)
            if path.endswith("/"):
                target.mkdir(parents=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text.replace("@", self.name))
        for path, target_text in self.links.items():
            os.symlink(target_text.replace("@", self.name), repository / path.replace("@", self.name))
        return repository


def config(
    name: str = "@",
    *,
    head: str = 'backend: "python"',
    batch: str = "max_batch_size: 8",
    inputs: str = X,
    outputs: str = Y,
    rest: str = "",
) -> str:
    """A config.pbtxt; each part can be replaced."""
    named = f'name: "{name}"\n' if name else ""
    return f"{named}{head}\n{batch}\n{inputs}\n{outputs}\n{rest}\n"


def python_model(text: str | None, folder: str = "@", code: str = MODEL_PY) -> dict[str, str]:
    """The files of one Python model; no config.pbtxt where `text` is None."""
    files = {f"{folder}/1/model.py": code}
    return files if text is None else {f"{folder}/config.pbtxt": text, **files}


def step(
    model: str = "@.a", inputs: str = '"x": "in"', outputs: str = '"y": "out"', version: str = "-1"
) -> str:
    """One ensemble step; maps as 'key: value' pairs."""
    return (
        f'step {{ model_name: "{model}" model_version: {version} '
        f"{_map('input_map', inputs)} {_map('output_map', outputs)} }}"
    )


def _map(name: str, pairs: str) -> str:
    entries = [pair.split(":") for pair in pairs.split(",") if pair.strip()]
    return " ".join(f"{name} {{ key: {key} value: {value} }}" for key, value in entries)


IN = 'input [ { name: "in" data_type: TYPE_FP32 dims: [ 4 ] } ]'
OUT = 'output [ { name: "out" data_type: TYPE_FP32 dims: [ 4 ] } ]'


def ensemble_text(
    *steps: str,
    name: str = "@",
    head: str = 'platform: "ensemble"',
    batch: str = "max_batch_size: 8",
    inputs: str = IN,
    outputs: str = OUT,
    rest: str = "",
) -> str:
    """An ensemble's config.pbtxt."""
    scheduling = f"ensemble_scheduling {{ {' '.join(steps)} }}"
    return config(name, head=head, batch=batch, inputs=inputs, outputs=outputs, rest=f"{scheduling}\n{rest}")


def ensemble(text: str, **steps: str) -> dict[str, str]:
    """The files of an ensemble `@` and of Python models `@.<key>` with the given configs."""
    files = {"@/config.pbtxt": text, "@/1/": ""}
    for key, step_config in steps.items():
        files |= python_model(step_config, f"@.{key}")
    return files


def step_config(key: str, **parts: str) -> str:
    """The config of step model `@.<key>`."""
    return config(f"@.{key}", **parts)
