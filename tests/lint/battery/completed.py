# ruff: noqa: E501 (a table of configurations)
"""Configurations that leave something to the backend, on a server that lets it complete them, as Triton does
unless told not to. A Python model is completed by its own method."""

from tests.lint.battery.case import (
    MODEL_PY,
    Case,
    Outcome,
    config,
    ensemble_text,
    python_model,
    step,
)

R, A = Outcome.REFUSED, Outcome.ACCEPTED
COMPLETES = (
    MODEL_PY
    + """
    def auto_complete_config(config):
        config.add_input({"name": "x", "data_type": "TYPE_FP32", "dims": [4]})
        config.add_output({"name": "y", "data_type": "TYPE_FP32", "dims": [4]})
        config.set_max_batch_size(8)
        return config

    auto_complete_config = staticmethod(auto_complete_config)
"""
)
TENSOR, STEP = "tensor-completed", "step-completed"
ZERO = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }'
BARE = 'name: "@.a" backend: "python"'


def one(
    case: str,
    outcome: Outcome,
    /,
    *codes: str,
    code: str = COMPLETES,
    files: dict[str, str] | None = None,
    **parts: str,
) -> Case:
    """A Python model that completes its configuration, which differs from a whole one in `parts`."""
    return Case(
        name=f"completed_{case}",
        outcome=outcome,
        codes=codes,
        files={**python_model(config(**parts), code=code), **(files or {})},
    )


def over(
    case: str, outcome: Outcome, /, *codes: str, text: str, a: str = BARE, code: str = COMPLETES
) -> Case:
    """An ensemble of one step whose model is completed."""
    files = {"@/config.pbtxt": text, "@/1/": "", **python_model(a, "@.a", code=code)}
    return Case(name=f"completed_{case}", outcome=outcome, codes=codes, files=files)


def x(text: str) -> str:
    return f"input [ {{ {text} }} ]"


def y(text: str) -> str:
    return f"output [ {{ {text} }} ]"


NAMES = {"inputs": x('name: "x"'), "outputs": y('name: "y"')}

MODELS = (
    one("nothing_to_do", A),
    one("names", A, TENSOR, **NAMES),
    one("names_alone", A, TENSOR, batch="", **NAMES),
    one(
        "types",
        A,
        TENSOR,
        inputs=x('name: "x" data_type: TYPE_FP32'),
        outputs=y('name: "y" data_type: TYPE_FP32'),
    ),
    one("dims", A, TENSOR, inputs=x('name: "x" dims: [ 4 ]'), outputs=y('name: "y" dims: [ 4 ]')),
    one("everything", A, inputs="", outputs="", batch=""),
    one("ragged", A, TENSOR, inputs=x('name: "x" allow_ragged_batch: true')),
    one("optional", A, TENSOR, inputs=x('name: "x" optional: true')),
    one("reshape", A, TENSOR, inputs=x('name: "x" reshape { shape: [ 2, 2 ] }')),
    one("labels", A, TENSOR, outputs=y('name: "y" label_filename: "l.txt"'), files={"@/l.txt": "a"}),
    one("smaller_batch", A, batch="max_batch_size: 4"),
    one("more_inputs", A, inputs=x('name: "q" data_type: TYPE_FP32 dims: [ 4 ]')),
    one(
        "batch_input",
        A,
        TENSOR,
        inputs="",
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" } ]',
    ),
    one(
        "batch_output",
        A,
        TENSOR,
        outputs="",
        rest='batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "y" source_input: "x" } ]',
    ),
    one("warmup", A, inputs="", rest=f'model_warmup [ {{ name: "w" batch_size: 1 {ZERO} }} ]'),
    one(
        "warmup_named",
        A,
        TENSOR,
        inputs=x('name: "x"'),
        rest=f'model_warmup [ {{ name: "w" batch_size: 1 {ZERO} }} ]',
    ),
    one(
        "warmup_batch", A, inputs="", batch="", rest=f'model_warmup [ {{ name: "w" batch_size: 8 {ZERO} }} ]'
    ),
    one("no_method", R, "data-type", "dims", code=MODEL_PY, **NAMES),
    one("no_method_types", R, "dims", code=MODEL_PY, inputs=x('name: "x" data_type: TYPE_FP32')),
    one("no_method_whole", A, code=MODEL_PY),
    one("nameless", R, "tensor-name", inputs=x("data_type: TYPE_FP32 dims: [ 4 ]")),
    one("dims_zero", R, "dims", inputs=x('name: "x" dims: [ 0 ]')),
    one("labels_missing", R, "label-file", outputs=y('name: "y" label_filename: "l.txt"')),
    one(
        "batch_input_type",
        R,
        "batch-io",
        inputs="",
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" source_input: "x" } ]',
    ),
    one("preferred", R, "preferred-batch", batch="", rest="dynamic_batching { preferred_batch_size: [ 4 ] }"),
    one(
        "preferred_oldest",
        R,
        "preferred-batch",
        batch="",
        rest="sequence_batching { oldest { preferred_batch_size: [ 4 ] } }",
    ),
)

ENSEMBLES = (
    over("step", A, STEP, text=ensemble_text(step())),
    over("step_unbatched_ensemble", A, STEP, text=ensemble_text(step(), batch="")),
    over("step_names", A, text=ensemble_text(step()), a=config("@.a", **NAMES)),
    over("step_without_config", A, STEP, text=ensemble_text(step()), a=""),
    over("step_no_method", R, "ensemble-tensor", text=ensemble_text(step()), code=MODEL_PY),
    over("step_whole", A, text=ensemble_text(step()), a=config("@.a")),
    over("own_types", R, "data-type", text=ensemble_text(step(), inputs=x('name: "in" dims: [ 4 ]'))),
    over("own_dims", R, "dims", text=ensemble_text(step(), inputs=x('name: "in" data_type: TYPE_FP32'))),
    over(
        "own_names",
        R,
        "data-type",
        text=ensemble_text(step(), inputs=x('name: "in"'), outputs=y('name: "out"')),
    ),
    over(
        "batch_too_large",
        R,
        "ensemble-batch",
        text=ensemble_text(step(), batch="max_batch_size: 16"),
        a=config("@.a", **NAMES),
    ),
)

COMPLETED_CASES = MODELS + ENSEMBLES
