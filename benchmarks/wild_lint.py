# ruff: noqa: E501 (a table of configurations)
"""Repositories as people have them, for `ppipe lint`: what a server loads is no error, what it refuses is one.

What is right was seen on a real Triton 2.51 (tests/lint/battery has the same kinds, and more), except for what newer
releases do and what backends do that are not in its Python build.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.helpers.wild.case import Answer, Expected, WildCase, called
from model_repo_generator.lint.command import main as lint

TAKEN, REFUSED = Expected.TAKEN, Expected.REFUSED
EXECUTES = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"
COMPLETES = EXECUTES + "\n    @staticmethod\n    def auto_complete_config(config):\n        return config\n"
COMPLETING, STRICT = ("--auto-complete",), ()
WHOLE = "input [ { name: 'x' data_type: TYPE_FP32 dims: [ 4 ] } ] output [ { name: 'y' data_type: TYPE_FP32 dims: [ 4 ] } ]"
NAMES = "input [ { name: 'x' } ] output [ { name: 'y' } ]"


@dataclass(frozen=True)
class Repository:
    """A case: `files` by path, `links` by path, `options` of the command; `folders`: what is linted together."""

    id: str
    kind: str
    expected: Expected
    files: Mapping[str, str]
    options: tuple[str, ...] = STRICT
    names: tuple[str, ...] = ()
    links: Mapping[str, str] = field(default_factory=dict)
    folders: tuple[str, ...] = (".",)

    def ask(self, folder: Path) -> Answer:
        """Write it and lint it."""
        for path, text in self.files.items():
            target = folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
        for path, leads in self.links.items():
            os.symlink(leads, folder / path)
        return called(lint, *(str(folder / name) for name in self.folders), *self.options)


def cases() -> Iterator[WildCase]:
    """Every repository."""
    for each in (*PARTIAL, *RUNTIME, *CAPABILITY, *TOGETHER, *STATES, *PROFILES, *STRAYS, *RELEASES):
        yield WildCase(f"lint-{each.id}", each.kind, each.expected, each.ask, each.names)


def model(head: str, rest: str = WHOLE, *files: str, name: str = "m", code: str = EXECUTES) -> dict[str, str]:
    """One model; a model.py has code, all other files are empty."""
    text = f'name: "{name}" {head} {rest}'
    return {f"{name}/config.pbtxt": text} | {
        f"{name}/1/{file}": code if file == "model.py" else "" for file in files
    }


def python(rest: str = WHOLE, name: str = "m", code: str = EXECUTES) -> dict[str, str]:
    return model('backend: "python" max_batch_size: 8', rest, "model.py", name=name, code=code)


def ensemble(step: str = "m", name: str = "e") -> dict[str, str]:
    scheduling = (
        f'ensemble_scheduling {{ step [ {{ model_name: "{step}" model_version: -1 '
        'input_map { key: "x" value: "x" } output_map { key: "y" value: "y" } } ] }'
    )
    return model('platform: "ensemble" max_batch_size: 8', f"{WHOLE} {scheduling}", ".keep", name=name)


def _partial(
    id: str, expected: Expected, files: Mapping[str, str], *names: str, options: tuple[str, ...] = COMPLETING
) -> Repository:
    return Repository(f"partial-{id}", "what a backend completes", expected, files, options, names)


RAGGED = "input [ { name: 'x' data_type: TYPE_UINT8 allow_ragged_batch: true } ] output [ { name: 'y' } ]"
BATCH_INPUT = f"{NAMES} batch_input [ {{ kind: BATCH_ELEMENT_COUNT target_name: 'n' data_type: TYPE_FP32 source_input: 'x' }} ]"
WARM = "model_warmup [ { name: 'w' batch_size: 1 inputs { key: 'x' value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } } } ]"
DALI = 'backend: "dali" max_batch_size: 64'
ONNX = 'platform: "onnxruntime_onnx" max_batch_size: 8'
PARTIAL = (
    _partial("dali-names", TAKEN, model(DALI, RAGGED, "model.dali")),
    _partial(
        "dali-names-strict", REFUSED, model(DALI, RAGGED, "model.dali"), "data_type", "dims", options=STRICT
    ),
    _partial("dali-batch-input", TAKEN, model(DALI, BATCH_INPUT, "model.dali")),
    _partial("onnx-names", TAKEN, model(ONNX, NAMES, "model.onnx")),
    _partial("onnx-empty", TAKEN, model(ONNX, "", "model.onnx")),
    _partial(
        "onnx-reshape",
        TAKEN,
        model(ONNX, NAMES.replace("'x'", "'x' reshape { shape: [ 2, 2 ] }"), "model.onnx"),
    ),
    _partial("onnx-warmup", TAKEN, model(ONNX, WARM, "model.onnx")),
    _partial(
        "plan-types",
        TAKEN,
        model('backend: "tensorrt"', NAMES.replace("'x'", "'x' data_type: TYPE_FP16"), "model.plan"),
    ),
    _partial(
        "onnx-dims-zero", REFUSED, model(ONNX, WHOLE.replace("4", "0"), "model.onnx"), r"input\[0\]\.dims"
    ),
    _partial("python-completes", TAKEN, python(NAMES, code=COMPLETES)),
    _partial("python-completes-not", REFUSED, python(NAMES), "data_type"),
    _partial("torchscript", REFUSED, model('backend: "pytorch"', NAMES, "model.pt"), "data_type"),
    _partial("step-without-tensors", TAKEN, ensemble() | model('backend: "onnxruntime"', "", "model.onnx")),
    _partial("step-without-config", TAKEN, ensemble() | {"m/1/model.onnx": ""}),
    _partial(
        "step-of-another-type",
        REFUSED,
        ensemble() | model(ONNX, WHOLE.replace("FP32", "INT8"), "model.onnx"),
        "TYPE_INT8",
    ),
    _partial(
        "ensemble-itself",
        REFUSED,
        {
            **ensemble(),
            **python(),
            "e/config.pbtxt": ensemble()["e/config.pbtxt"].replace("data_type: TYPE_FP32 ", "", 1),
        },
        "data_type",
    ),
)


def _runtime(
    id: str,
    expected: Expected,
    *files: str,
    rest: str = WHOLE,
    names: tuple[str, ...] = (),
    options: tuple[str, ...] = STRICT,
) -> Repository:
    return Repository(
        f"runtime-{id}",
        "PyTorch's Python runtime",
        expected,
        model('backend: "pytorch" runtime: "model.py"', rest, *files, code="import torch\n"),
        options,
        names,
    )


RUNTIME = (
    _runtime("class", TAKEN, "model.py"),
    _runtime("class-completing", TAKEN, "model.py", options=("--auto-complete", "--backend", "pytorch")),
    _runtime("weights", TAKEN, "model.py", "model.pt", options=("--triton", "2.51")),
    _runtime("script", TAKEN, "model.pt", options=("--backend", "pytorch")),
    _runtime("renamed", TAKEN, "net.py", rest=f'{WHOLE} default_model_filename: "net.py"'),
    _runtime("nothing", REFUSED, "README.txt", names=("model.py", "model.pt")),
)


def _capability(
    id: str, expected: Expected, *files: str, rest: str = "", names: tuple[str, ...] = ()
) -> Repository:
    named = "cc_model_filenames [ { key: '7.5' value: 't4.plan' }, { key: '8.9' value: 'l4.plan' } ]"
    return Repository(
        f"capability-{id}",
        "files per compute capability",
        expected,
        model('platform: "tensorrt_plan"', f"{WHOLE} {named} {rest}", *files),
        names=names,
    )


CAPABILITY = (
    _capability("all", TAKEN, "t4.plan", "l4.plan"),
    _capability("some", TAKEN, "t4.plan"),
    _capability("default", TAKEN, "model.plan"),
    _capability("none", REFUSED, "README", names=("model.plan", "cc_model_filenames")),
    _capability(
        "on-cpu",
        REFUSED,
        "t4.plan",
        "l4.plan",
        rest="instance_group [ { kind: KIND_CPU } ]",
        names=("model.plan",),
    ),
)


def under(folder: str, files: Mapping[str, str]) -> dict[str, str]:
    return {f"{folder}/{path}": text for path, text in files.items()}


def _together(
    id: str, expected: Expected, files: Mapping[str, str], *names: str, options: tuple[str, ...] = STRICT
) -> Repository:
    folders = tuple(sorted({path.split("/")[0] for path in files}))
    return Repository(
        f"together-{id}", "several repositories", expected, files, options, names, folders=folders
    )


TOGETHER = (
    _together("step-elsewhere", TAKEN, under("a", ensemble()) | under("b", python())),
    _together("step-nowhere", REFUSED, under("a", ensemble()) | under("b", python(name="k")), "no model 'm'"),
    _together("same-name", REFUSED, under("a", python()) | under("b", python()), "b/m", "model-namespacing"),
    _together(
        "same-name-namespacing",
        TAKEN,
        under("a", python()) | under("b", python()),
        options=("--model-namespacing",),
    ),
    _together(
        "step-ambiguous",
        REFUSED,
        under("a", ensemble()) | under("b", python()) | under("c", python()),
        "2 repositories",
        options=("--model-namespacing",),
    ),
)


def _state(
    id: str, expected: Expected, states: str, *names: str, files: Mapping[str, str] | None = None
) -> Repository:
    rest = f"{WHOLE} sequence_batching {{ state [ {states} ] }}"
    return Repository(
        f"state-{id}", "sequence states", expected, {**python(rest), **(files or {})}, names=names
    )


def state(initial: str, inward: str = "h", outward: str = "h_next", dims: str = "[ 4 ]") -> str:
    begins = f"initial_state {{ {initial} }}" if initial else ""
    return f"{{ input_name: '{inward}' output_name: '{outward}' data_type: TYPE_FP32 dims: {dims} {begins} }}"


GOOD = "name: 'zeros' data_type: TYPE_FP32 dims: [ 4 ] zero_data: true"
FROM_FILE = GOOD.replace("zero_data: true", "data_file: 'h0'")
STATES = (
    _state("plain", TAKEN, state("")),
    _state("zeros", TAKEN, state(GOOD)),
    _state("file", TAKEN, state(FROM_FILE), files={"m/initial_state/h0": "0123456789abcdef"}),
    _state("file-missing", REFUSED, state(FROM_FILE), "initial_state/h0"),
    _state(
        "file-short", REFUSED, state(FROM_FILE), "8 bytes", "16", files={"m/initial_state/h0": "01234567"}
    ),
    _state("file-is-folder", REFUSED, state(FROM_FILE), "folder", files={"m/initial_state/h0/x": ""}),
    _state("nameless", REFUSED, state(GOOD.replace("name: 'zeros'", "")), "name"),
    _state("without-data", REFUSED, state(GOOD.replace("zero_data: true", "")), "zero_data"),
    _state("type", REFUSED, state(GOOD.replace("FP32", "FP16")), "TYPE_FP16", "TYPE_FP32"),
    _state("rank", REFUSED, state(GOOD.replace("4", "2, 2")), r"\[2, 2\]"),
    _state("size", REFUSED, state(GOOD.replace("4", "5")), r"\[5\]"),
    _state("variable", REFUSED, state(GOOD.replace("4", "-1"), dims="[ -1 ]"), "-1"),
    _state("of-variable", TAKEN, state(GOOD, dims="[ -1 ]")),
    _state("two-beginnings", REFUSED, state(f"{GOOD} }} initial_state {{ {GOOD}"), "one initial_state"),
    _state(
        "swapped",
        REFUSED,
        f"{state('', 'cache', 'cache_next')}, {state('', 'cache_len', 'cache_len_next')}",
        "cache_len",
    ),
    _state("two-in-order", TAKEN, f"{state('', 'a', 'a_next')}, {state('', 'b', 'b_next')}"),
)


def _profile(id: str, expected: Expected, profile: str, *names: str) -> Repository:
    rest = f"{WHOLE} instance_group [ {{ kind: KIND_GPU profile: {profile} }} ]"
    files = model('platform: "tensorrt_plan"', rest, "model.plan")
    return Repository(f"profile-{id}", "profiles of plans", expected, files, names=names)


PROFILES = (
    _profile("index", TAKEN, "['0', '3']"),
    _profile("word", REFUSED, "'small'", "'small'", "index"),
    _profile("below", REFUSED, "'-1'", "'-1'"),
    _profile("empty", REFUSED, "''", "''"),
    _profile("beyond", REFUSED, "'99999999999'", "32 bits"),
)


def _stray(
    id: str,
    expected: Expected,
    files: Mapping[str, str],
    *names: str,
    options: tuple[str, ...] = STRICT,
    links: Mapping[str, str] | None = None,
) -> Repository:
    return Repository(
        f"stray-{id}", "what lies about", expected, {**python(), **files}, options, names, links or {}
    )


STRAYS = (
    _stray("files", TAKEN, {"README.md": "", ".gitignore": ""}),
    _stray("inside-a-model", TAKEN, {"m/.ipynb_checkpoints/x": "", "m/docs/x": ""}),
    _stray("hidden", REFUSED, {".ipynb_checkpoints/model-checkpoint.py": ""}, r"\.ipynb_checkpoints"),
    _stray("hidden-completing", REFUSED, {".git/HEAD": ""}, r"\.git", options=COMPLETING),
    _stray("hidden-explicit", TAKEN, {".git/HEAD": ""}, options=("--explicit",)),
    _stray("reports", REFUSED, {"reports/latest.md": ""}, "reports"),
    _stray("dangling", REFUSED, {}, "old", "leads nowhere", links={"old": "../gone"}),
    _stray("dangling-version", REFUSED, {}, "m/2", "leads nowhere", links={"m/2": "/nowhere"}),
    _stray("dangling-inside-version", TAKEN, {}, links={"m/1/cache": "/nowhere"}),
)


def _release(id: str, expected: Expected, files: Mapping[str, str], version: str, *names: str) -> Repository:
    return Repository(
        f"release-{id}-{version}", "other releases", expected, files, ("--triton", version), names
    )


INFLIGHT = ensemble() | python()
INFLIGHT["e/config.pbtxt"] = INFLIGHT["e/config.pbtxt"].replace("step [", "max_inflight_requests: 4 step [")
AOTI = model('platform: "torch_aoti"', WHOLE, "model.pt2")
WEIGHTS = model('backend: "pytorch" runtime: "model.py"', WHOLE, "model.py", "model.pt")
SAVED = model('platform: "tensorflow_savedmodel"', WHOLE, "model.savedmodel/saved_model.pb")
RELEASES = (
    _release("inflight", REFUSED, INFLIGHT, "24.10", "max_inflight_requests", "25.11"),
    _release("inflight", TAKEN, INFLIGHT, "26.09"),
    _release("aoti", REFUSED, AOTI, "2.51", "torch_aoti"),
    _release("aoti", TAKEN, AOTI, "2.73"),
    _release("weights", TAKEN, WEIGHTS, "2.51"),
    _release("weights", REFUSED, WEIGHTS, "2.70", "default_model_filename", "read, not run"),
    _release("tensorflow", TAKEN, SAVED, "25.02"),
    _release("tensorflow", REFUSED, SAVED, "25.03", "TensorFlow", "read, not run"),
    _release("unknown", REFUSED, python(), "latest", "'latest'", r"24\.10"),
    _release("too-old", REFUSED, python(), "23.01", "older"),
)
