# ruff: noqa: E501 (a table of configurations)
"""Whole repositories in the shapes that people publish: ensembles, versions, and what else lies about."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.lint.shapes import PYTHON, STYLES, Shape, tensor


def model(
    name: str,
    inputs: str,
    outputs: str,
    *,
    head: str = 'backend: "python"',
    batch: int = 8,
    rest: str = "",
    file: str = "model.py",
    version: str = "1",
) -> dict[str, str]:
    """One model: `inputs` and `outputs` as 'name:TYPE:dims; ...'."""
    text = f'name: "{name}" {head} max_batch_size: {batch} {_io(inputs, outputs)} {rest}'
    return {f"{name}/config.pbtxt": text, f"{name}/{version}/{file}": PYTHON if file == "model.py" else ""}


def ensemble(
    name: str, inputs: str, outputs: str, *steps: str, batch: int = 8, rest: str = ""
) -> dict[str, str]:
    """`steps`: 'model@version: key=tensor ... -> key=tensor ...'."""
    scheduling = f"ensemble_scheduling {{ step [ {', '.join(map(_step, steps))} ] }}"
    text = f'name: "{name}" platform: "ensemble" max_batch_size: {batch} {_io(inputs, outputs)} {scheduling} {rest}'
    return {f"{name}/config.pbtxt": text, f"{name}/1/.gitkeep": ""}


def _io(inputs: str, outputs: str) -> str:
    return f"input [ {_tensors(inputs)} ] output [ {_tensors(outputs)} ]"


def _tensors(listed: str) -> str:
    parts = [each.strip().split(":") for each in listed.split(";")]
    return ", ".join(
        tensor(part[0], part[1], part[2], part[3].replace("=", ":") if len(part) > 3 else "")
        for part in parts
    )


def _step(text: str) -> str:
    used, _, maps = text.partition(": ")
    name, _, version = used.partition("@")
    read, _, written = maps.partition(" -> ")
    return f'{{ model_name: "{name}" model_version: {version or -1} {_map("input_map", read)} {_map("output_map", written)} }}'


def _map(field: str, pairs: str) -> str:
    each = (pair.split("=") for pair in pairs.split())
    return " ".join(f'{field} {{ key: "{key}" value: "{value}" }}' for key, value in each)


IMAGE, SCORES = "image:FP32:3,224,224", "scores:FP32:1000"
ONNX = {"head": 'platform: "onnxruntime_onnx"', "file": "model.onnx"}
PLAN = {"head": 'platform: "tensorrt_plan"', "file": "model.plan"}

PREPARE = model("prepare", "bytes:UINT8:-1", IMAGE, rest="dynamic_batching { }")
NET = model("net", IMAGE, SCORES, **ONNX)
FINISH = model("finish", SCORES, "label:STRING:1; score:FP32:1")
CHAIN = ensemble(
    "classify",
    "bytes:UINT8:-1",
    "label:STRING:1; score:FP32:1",
    "prepare: bytes=bytes -> image=image",
    "net: image=image -> scores=scores",
    "finish: scores=scores -> label=label score=score",
)
DECOUPLED = "model_transaction_policy { decoupled: true }"

REPOSITORIES: Mapping[str, Mapping[str, str]] = {
    "chain": CHAIN | PREPARE | NET | FINISH,
    "chain_of_two_plans": ensemble(
        "e", IMAGE, "boxes:FP32:-1,4", "a: image=image -> features=f", "b: features=f -> boxes=boxes"
    )
    | model("a", IMAGE, "features:FP16:64,56,56", **PLAN)
    | model("b", "features:FP16:64,56,56", "boxes:FP32:-1,4", **PLAN),
    "branches": ensemble(
        "e",
        IMAGE,
        "a:FP32:1000; b:FP32:1000",
        "net: image=image -> scores=a",
        "other: image=image -> scores=b",
    )
    | NET
    | model("other", IMAGE, SCORES, **ONNX),
    "branches_meet": ensemble(
        "e",
        IMAGE,
        "scores:FP32:1000",
        "net: image=image -> scores=a",
        "other: image=image -> scores=b",
        "mean: x=a y=b -> z=scores",
    )
    | NET
    | model("other", IMAGE, SCORES, **ONNX)
    | model("mean", "x:FP32:1000; y:FP32:1000", "z:FP32:1000"),
    "one_model_three_times": ensemble(
        "e", "x:FP32:4", "out:FP32:4", "m: x=x -> y=s1", "m: x=s1 -> y=s2", "m: x=s2 -> y=out"
    )
    | model("m", "x:FP32:4", "y:FP32:4"),
    "inner_tensor_is_output_too": ensemble(
        "e",
        IMAGE,
        "scores:FP32:1000; label:STRING:1",
        "net: image=image -> scores=scores",
        "finish: scores=scores -> label=label",
    )
    | NET
    | FINISH,
    "input_is_output_too": ensemble("e", IMAGE, f"{IMAGE}; {SCORES}", "net: image=image -> scores=scores")
    | NET,
    "nested": ensemble("outer", "bytes:UINT8:-1", "label:STRING:1", "classify: bytes=bytes -> label=label")
    | CHAIN
    | PREPARE
    | NET
    | FINISH,
    "steps_in_any_order": ensemble("e", "x:FP32:4", "z:FP32:4", "m: x=y -> y=z", "m: x=x -> y=y")
    | model("m", "x:FP32:4", "y:FP32:4"),
    "unbatched_throughout": ensemble("e", "x:FP32:1,4", "y:FP32:1,4", "m: x=x -> y=y", batch=0)
    | model("m", "x:FP32:1,4", "y:FP32:1,4", batch=0),
    "unbatched_over_batched": ensemble("e", "x:FP32:-1,4", "y:FP32:-1,4", "m: x=x -> y=y", batch=0)
    | model("m", "x:FP32:4", "y:FP32:4"),
    "smaller_batch": ensemble("e", "x:FP32:4", "y:FP32:4", "m: x=x -> y=y", batch=4)
    | model("m", "x:FP32:4", "y:FP32:4", batch=32),
    "language_model": ensemble(
        "e",
        "text_input:STRING:1; max_tokens:INT32:1",
        "text_output:STRING:-1",
        "preprocessing: QUERY=text_input -> INPUT_ID=ids",
        "tensorrt_llm: input_ids=ids request_output_len=max_tokens -> output_ids=out",
        "postprocessing: TOKENS=out -> OUTPUT=text_output",
    )
    | model("preprocessing", "QUERY:STRING:1; BAD:STRING:-1:optional= true", "INPUT_ID:INT32:-1")
    | model(
        "tensorrt_llm",
        "input_ids:INT32:-1; request_output_len:INT32:1; temperature:FP32:1:reshape= { shape= [ ] } optional= true",
        "output_ids:INT32:-1,-1",
        head='backend: "tensorrtllm"',
        file="rank0.engine",
        rest=DECOUPLED,
    )
    | model("postprocessing", "TOKENS:INT32:-1,-1", "OUTPUT:STRING:-1"),
    "decoupled_step": ensemble("e", "x:FP32:4", "y:FP32:4", "m: x=x -> y=y")
    | model("m", "x:FP32:4", "y:FP32:4", rest=DECOUPLED),
    "chosen_version": ensemble("e", IMAGE, SCORES, "net@2: image=image -> scores=scores")
    | model("net", IMAGE, SCORES, **ONNX, rest="version_policy { all { } }")
    | {"net/2/model.onnx": ""},
    "many_versions": model("net", IMAGE, SCORES, **ONNX) | {"net/2/model.onnx": "", "net/10/model.onnx": ""},
    "labels": model("net", IMAGE, 'scores:FP32:1000:label_filename= "labels.txt"', **ONNX)
    | {"net/labels.txt": "cat\ndog\n"},
    "cached": ensemble(
        "e", IMAGE, SCORES, "net: image=image -> scores=scores", rest="response_cache { enable: true }"
    )
    | NET,
    "warmed_up": model(
        "net",
        IMAGE,
        SCORES,
        **ONNX,
        rest='model_warmup [ { name: "zeros" batch_size: 1 inputs { key: "image" value { data_type: TYPE_FP32 dims: [ 3, 224, 224 ] zero_data: true } } }, '
        '{ name: "random" batch_size: 8 count: 4 inputs { key: "image" value { data_type: TYPE_FP32 dims: [ 3, 224, 224 ] random_data: true } } } ]',
    ),
    "warmed_up_from_a_file": model(
        "net",
        "x:UINT8:4",
        SCORES,
        **ONNX,
        rest='model_warmup { name: "w" batch_size: 1 inputs { key: "x" value { data_type: TYPE_UINT8 dims: [ 4 ] input_data_file: "raw" } } }',
    )
    | {"net/warmup/raw": "abcd"},
    "ragged": model(
        "net",
        "x:FP32:-1:allow_ragged_batch= true",
        SCORES,
        **PLAN,
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "SIZE" data_type: TYPE_FP32 source_input: "x" }, '
        '{ kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "INDEX" data_type: TYPE_FP32 source_input: "x" } ] dynamic_batching { }',
    ),
    "scattered": model(
        "net",
        "x:FP32:-1:allow_ragged_batch= true",
        "y:FP32:-1",
        **PLAN,
        rest='batch_output { target_name: "y" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "x" }',
    ),
    "shape_tensor": model("net", "x:FP32:-1; size:INT32:1:is_shape_tensor= true", "y:FP32:-1", **PLAN),
    "streaming": model(
        "net",
        "chunk:FP32:-1,80",
        "text:STRING:1",
        **ONNX,
        rest='sequence_batching { oldest { max_candidate_sequences: 64 } state [ { input_name: "cache" output_name: "cache_next" data_type: TYPE_FP32 dims: [ 2, -1 ] '
        'initial_state { name: "c" data_type: TYPE_FP32 dims: [ 2, 8 ] zero_data: true } }, { input_name: "offset" output_name: "offset_next" data_type: TYPE_INT64 dims: 1 '
        'initial_state { name: "o" data_type: TYPE_INT64 dims: 1 data_file: "offset" } } ] }',
    )
    | {"net/initial_state/offset": "01234567"},
    "files_beside": NET
    | {
        "README.md": "",
        ".gitignore": "",
        "download.sh": "",
        "net/.ipynb_checkpoints/config.pbtxt": "",
        "net/notes.md": "",
        "net/1/.gitattributes": "",
    },
    "configs_by_class": NET
    | {"net/configs/a100.pbtxt": NET["net/config.pbtxt"], "net/configs/t4.pbtxt": NET["net/config.pbtxt"]},
    "name_left_out": {
        "net/config.pbtxt": NET["net/config.pbtxt"].replace('name: "net"', ""),
        "net/1/model.onnx": "",
    },
    "backend_by_file": {
        "net/config.pbtxt": NET["net/config.pbtxt"].replace('platform: "onnxruntime_onnx"', ""),
        "net/1/model.onnx": "",
    },
    "backend_by_name": {
        "net.identity/config.pbtxt": 'max_batch_size: 8 input [ { name: "x" data_type: TYPE_FP32 dims: 4 } ] output [ { name: "y" data_type: TYPE_FP32 dims: 4 } ]',
        "net.identity/1/keep": "",
    },
    "reshaped": model(
        "net", "x:FP32:1:reshape= { shape= [ ] }", "y:FP32:1,28,28:reshape= { shape= [ 28, 28 ] }", **ONNX
    ),
    "nchw": model("net", "x:FP32:3,8,8:format= FORMAT_NCHW", SCORES, **ONNX),
    "strings": model("m", "text:STRING:-1; bool:BOOL:1; half:BF16:2", "out:STRING:-1"),
}


def whole_repositories() -> Iterator[Shape]:
    """Each in two styles."""
    for nth, (name, files) in enumerate(REPOSITORIES.items()):
        for style in (STYLES[0], STYLES[1 + nth % (len(STYLES) - 1)]):
            yield Shape(
                f"{name}-{style.__name__}",
                {
                    path: style(text) if path.endswith(".pbtxt") and text else text
                    for path, text in files.items()
                },
            )
