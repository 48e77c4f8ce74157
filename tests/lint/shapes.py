# ruff: noqa: E501 (a table of configurations, a line of config.pbtxt each)
"""Valid repositories in the shapes that people publish: kinds of models, what they set, and how they write it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

PYTHON = "class TritonPythonModel:\n    def execute(self, requests):\n        return []\n"


@dataclass(frozen=True)
class Published:
    """A kind of model: what its configuration begins with, its tensors, and the files of a version."""

    head: str
    tensors: str
    files: tuple[str, ...]
    batched: bool = True

    @property
    def is_tensorrt(self) -> bool:
        return "tensorrt_plan" in self.head or '"tensorrt"' in self.head

    @property
    def is_python(self) -> bool:
        return '"python"' in self.head


def tensor(name: str, dtype: str, dims: str, more: str = "") -> str:
    return f'{{ name: "{name}" data_type: TYPE_{dtype} dims: [ {dims} ] {more} }}'


def io(inputs: str, outputs: str) -> str:
    return f"input [ {inputs} ] output [ {outputs} ]"


IMAGE = tensor("images", "FP32", "3, 224, 224")
SCORES = tensor("scores", "FP32", "1000")
CLASSIFIER = io(IMAGE, SCORES)
DETECTOR = io(
    tensor("images", "FP16", "3, 640, 640"),
    ", ".join(
        (tensor("boxes", "FP32", "-1, 4"), tensor("labels", "INT64", "-1"), tensor("count", "INT32", "1"))
    ),
)
TEXT = io(
    ", ".join(tensor(name, "INT64", "-1") for name in ("input_ids", "attention_mask")),
    tensor("logits", "FP32", "-1, 768"),
)
BYTES = io(tensor("image_bytes", "UINT8", "-1"), tensor("image", "FP32", "3, -1, -1"))

MODELS: Mapping[str, Published] = {
    "onnx_platform": Published('platform: "onnxruntime_onnx"', CLASSIFIER, ("model.onnx",)),
    "onnx_backend": Published('backend: "onnxruntime"', DETECTOR, ("model.onnx",)),
    "onnx_both": Published('backend: "onnxruntime" platform: "onnxruntime_onnx"', TEXT, ("model.onnx",)),
    "onnx_external": Published('backend: "onnxruntime"', TEXT, ("model.onnx", "model.onnx_data")),
    "onnx_folder": Published(
        'backend: "onnxruntime"', TEXT, ("model.onnx/model.onnx", "model.onnx/weights.bin")
    ),
    "onnx_renamed": Published(
        'backend: "onnxruntime" default_model_filename: "resnet50.onnx"', CLASSIFIER, ("resnet50.onnx",)
    ),
    "tensorrt": Published('platform: "tensorrt_plan"', DETECTOR, ("model.plan",)),
    "tensorrt_engine": Published(
        'backend: "tensorrt" default_model_filename: "yolo.engine"', DETECTOR, ("yolo.engine",)
    ),
    "tensorrt_capabilities": Published(
        'platform: "tensorrt_plan" cc_model_filenames [ { key: "7.5" value: "t4.plan" }, { key: "8.9" value: "l4.plan" } ]',
        DETECTOR,
        ("t4.plan", "l4.plan"),
    ),
    "torchscript": Published(
        'platform: "pytorch_libtorch"',
        CLASSIFIER.replace("images", "INPUT__0").replace("scores", "OUTPUT__0"),
        ("model.pt",),
    ),
    "torchscript_backend": Published('backend: "pytorch"', CLASSIFIER, ("model.pt",)),
    "torch_class": Published('backend: "pytorch" runtime: "model.py"', CLASSIFIER, ("model.py",)),
    "torch_class_weights": Published(
        'backend: "pytorch" runtime: "model.py"', CLASSIFIER, ("model.py", "model.pt")
    ),
    "savedmodel": Published(
        'platform: "tensorflow_savedmodel"', CLASSIFIER, ("model.savedmodel/saved_model.pb",)
    ),
    "graphdef": Published('platform: "tensorflow_graphdef"', CLASSIFIER, ("model.graphdef",)),
    "openvino": Published('backend: "openvino"', CLASSIFIER, ("model.xml", "model.bin")),
    "python": Published('backend: "python"', BYTES, ("model.py",)),
    "python_files": Published(
        'backend: "python"', TEXT, ("model.py", "tokenizer/vocab.txt", "utils/__init__.py")
    ),
    "dali": Published('backend: "dali"', BYTES, ("model.dali", "dali.py")),
    "fil": Published(
        'backend: "fil"',
        io(tensor("input__0", "FP32", "32"), tensor("output__0", "FP32", "2")),
        ("xgboost.json",),
    ),
    "identity": Published(
        'backend: "identity"', io(tensor("INPUT0", "FP32", "-1"), tensor("OUTPUT0", "FP32", "-1")), ("keep",)
    ),
    "custom_library": Published('backend: "ours"', CLASSIFIER, ("libtriton_ours.so",)),
    "unbatched": Published(
        'backend: "onnxruntime"',
        io(tensor("x", "FP32", "1, 3, -1, -1"), tensor("y", "FP32", "-1, 6")),
        ("model.onnx",),
        batched=False,
    ),
    "vllm": Published(
        'backend: "vllm"',
        io(tensor("text_input", "STRING", "1"), tensor("text_output", "STRING", "-1")),
        ("model.json",),
        batched=False,
    ),
}


def _any(_: Published) -> bool:
    return True


def _batched(model: Published) -> bool:
    return model.batched


def _tensorrt(model: Published) -> bool:
    return model.is_tensorrt


def _onnx(model: Published) -> bool:
    return "onnx" in model.head


def _python(model: Published) -> bool:
    return model.is_python


START = '{ name: "START" control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] }'
READY = '{ name: "READY" control [ { kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } ] }'
CORRID = '{ name: "CORRID" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } ] }'
STATE = 'state [ { input_name: "h_in" output_name: "h_out" data_type: TYPE_FP32 dims: [ 2, 64 ] initial_state: { data_type: TYPE_FP32 dims: [ 2, 64 ] zero_data: true name: "zeros" } } ]'
PARAMETER = 'parameters {{ key: "{}" value {{ string_value: "{}" }} }}'

FEATURES: Mapping[str, tuple[str, Callable[[Published], bool]]] = {
    "nothing": ("", _any),
    "dynamic": ("dynamic_batching { }", _batched),
    "dynamic_delay": (
        "dynamic_batching { preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 500 }",
        _batched,
    ),
    "queue_policy": (
        "dynamic_batching { default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 100000 allow_timeout_override: true max_queue_size: 64 } }",
        _batched,
    ),
    "priorities": (
        "dynamic_batching { priority_levels: 3 default_priority_level: 2 priority_queue_policy { key: 1 value { timeout_action: DELAY default_timeout_microseconds: 500 } } }",
        _batched,
    ),
    "ordered": ("dynamic_batching { preserve_ordering: true }", _batched),
    "gpus": (
        "instance_group [ { count: 2 kind: KIND_GPU gpus: [ 0 ] }, { count: 1 kind: KIND_GPU gpus: [ 1, 2 ] } ]",
        _any,
    ),
    "gpu_any": ('instance_group [ { name: "all" count: 1 kind: KIND_GPU } ]', _any),
    "auto": ("instance_group [ { count: 1 } ]", _any),
    "rate_limited": (
        'instance_group [ { count: 1 kind: KIND_GPU gpus: [ 0 ] rate_limiter { resources [ { name: "R1" count: 4 }, { name: "R2" global: true count: 2 } ] priority: 2 } } ]',
        _any,
    ),
    "host_policy": ('instance_group [ { kind: KIND_GPU host_policy: "node0" passive: false } ]', _any),
    "kind_model": ("instance_group [ { kind: KIND_MODEL count: 1 } ]", _any),
    "latest_three": ("version_policy: { latest { num_versions: 3 } }", _any),
    "all_versions": ("version_policy: { all { } }", _any),
    "one_version": ("version_policy: { specific { versions: [ 1 ] } }", _any),
    "parameters": (
        PARAMETER.format("max_tokens", "512") + PARAMETER.format("model_type", "inflight_fused_batching"),
        _any,
    ),
    "parameter_list": (
        'parameters [ { key: "a" value: { string_value: "1" } }, { key: "b" value: { string_value: "${not_filled_in}" } } ]',
        _any,
    ),
    "cache": ("response_cache { enable: true }", _any),
    "decoupled": ("model_transaction_policy { decoupled: True }", _any),
    "pinned": (
        "optimization { input_pinned_memory { enable: false } output_pinned_memory { enable: true } gather_kernel_buffer_threshold: 1 }",
        _any,
    ),
    "graphs": (
        "optimization { cuda { graphs: true busy_wait_events: true graph_spec { batch_size: 4 } } }",
        _tensorrt,
    ),
    "profiles": ('instance_group [ { kind: KIND_GPU profile: [ "0", "1" ] } ]', _tensorrt),
    "accelerator": (
        'optimization { execution_accelerators { gpu_execution_accelerator : [ { name : "tensorrt" parameters { key: "precision_mode" value: "FP16" } } ] } }',
        _onnx,
    ),
    "graph_level": ("optimization { graph { level: 1 } eager_batching: true }", _onnx),
    "sequence": (
        f"sequence_batching {{ max_sequence_idle_microseconds: 5000000 direct {{ }} control_input [ {START}, {READY} ] }}",
        _batched,
    ),
    "sequence_oldest": (
        f"sequence_batching {{ oldest {{ max_candidate_sequences: 64 preferred_batch_size: [ 4, 8 ] max_queue_delay_microseconds: 1000 }} control_input [ {START}, {CORRID} ] }}",
        _batched,
    ),
    "sequence_state": (
        f"sequence_batching {{ oldest {{ max_candidate_sequences: 8 }} control_input {START} {STATE} }}",
        _batched,
    ),
    "tags": ('metric_tags { key: "team" value: "vision" }', _any),
    "agent": (
        'model_repository_agents { agents [ { name: "checksum" parameters { key: "MD5:1/model.onnx" value: "d41d8cd9" } } ] }',
        _any,
    ),
    "environment": (PARAMETER.format("EXECUTION_ENV_PATH", "$$TRITON_MODEL_DIRECTORY/env.tar.gz"), _python),
    "inputs_on_gpu": (PARAMETER.format("FORCE_CPU_ONLY_INPUT_TENSORS", "no"), _python),
    "custom_operations": ('model_operations { op_library_filename: "libops.so" }', _any),
}


def as_written(text: str) -> str:
    return text


def printed(text: str) -> str:
    """As protobuf prints it, and so most programs that make configurations."""
    return text_format.MessageToString(text_format.Parse(text, triton.ModelConfig()))


def on_one_line(text: str) -> str:
    return text_format.MessageToString(text_format.Parse(text, triton.ModelConfig()), as_one_line=True)


def pointed(text: str) -> str:
    return text_format.MessageToString(text_format.Parse(text, triton.ModelConfig()), pointy_brackets=True)


def with_colons_and_commas(text: str) -> str:
    """`input: [ { name: "x", dims: [ 1 ] } ]`, as those write it who come from JSON."""
    return printed(text).replace(" {\n", ": {\n").replace('"\n', '",\n')


def with_comments(text: str) -> str:
    lines = printed(text).splitlines()
    return "# Our model\n" + "\n".join(f"{line}  # see the wiki: {{ }} [" for line in lines) + "\n\n\n"


def with_windows_ends(text: str) -> str:
    return printed(text).replace("\n", "\r\n")


STYLES = (as_written, printed, on_one_line, pointed, with_colons_and_commas, with_comments, with_windows_ends)


@dataclass(frozen=True)
class Shape:
    """A repository: `files` by path."""

    name: str
    files: Mapping[str, str] = field(default_factory=dict)


def shapes() -> Iterator[Shape]:
    """Every kind of model with all that it may set; styles take turns."""
    turn = 0
    for kind, model in MODELS.items():
        for feature, (rest, applies) in FEATURES.items():
            if applies(model):
                style = STYLES[turn % len(STYLES)]
                turn += 1
                yield _shape(f"{kind}-{feature}-{style.__name__}", model, rest, style)


def _shape(name: str, model: Published, rest: str, style: Callable[[str], str]) -> Shape:
    batch = "max_batch_size: 8" if model.batched else "max_batch_size: 0"
    text = style(f'name: "m" {model.head} {batch} {model.tensors} {rest}')
    files = {f"m/1/{file}": PYTHON if file == "model.py" and model.is_python else "" for file in model.files}
    return Shape(name, {"m/config.pbtxt": text, "m/env.tar.gz": "", **files})
