# ruff: noqa: E501 (a table of configurations)
"""Ensembles: their own fields, the maps of their steps, and what the steps' models say."""

from tests.lint.battery.case import (
    IN,
    OUT,
    Case,
    Outcome,
    X,
    Y,
    ensemble,
    ensemble_text,
    python_model,
    step,
    step_config,
)

R, A = Outcome.REFUSED, Outcome.ACCEPTED
A_STEP = step_config("a")
B_STEP = step_config("b")
FIRST = step(outputs='"y": "mid"')
SECOND = step("@.b", inputs='"x": "mid"')


def case(name: str, outcome: Outcome, *codes: str, text: str, load: str = "@", **steps: str) -> Case:
    """An ensemble of step models; one called `a` with a good config unless others are given."""
    return Case(
        name=name, outcome=outcome, codes=codes, files=ensemble(text, **(steps or {"a": A_STEP})), load=load
    )


def tensor(kind: str, name: str, dims: str = "4", dtype: str = "TYPE_FP32") -> str:
    return f'{kind} [ {{ name: "{name}" data_type: {dtype} dims: [ {dims} ] }} ]'


def own(case_name: str, outcome: Outcome, *codes: str, rest: str) -> Case:
    """A good ensemble with more fields."""
    return case(case_name, outcome, *codes, text=ensemble_text(step(), rest=rest))


OWN_FIELDS = (
    case("ensemble_good", A, text=ensemble_text(step())),
    case("ensemble_chain", A, text=ensemble_text(FIRST, SECOND), a=A_STEP, b=B_STEP),
    case("ensemble_steps_reversed", A, text=ensemble_text(SECOND, FIRST), a=A_STEP, b=B_STEP),
    own("ensemble_instances", R, "ensemble-field", rest="instance_group [ { kind: KIND_CPU } ]"),
    own("ensemble_optimization", R, "ensemble-field", rest="optimization { }"),
    own("ensemble_warmup", R, "ensemble-field", rest='model_warmup [ { name: "w" batch_size: 1 } ]'),
    own("ensemble_batching", R, "syntax", rest="dynamic_batching { }"),
    own("ensemble_sequences", R, "syntax", rest="sequence_batching { }"),
    own("ensemble_cache", A, rest="response_cache { enable: true }"),
    own("ensemble_parameters", A, rest='parameters { key: "a" value { string_value: "b" } }'),
    own("ensemble_versions", A, rest="version_policy { all { } }"),
    case("ensemble_inflight", R, "newer-field", text=ensemble_text(step(), "max_inflight_requests: 4")),
    case(
        "ensemble_backend",
        R,
        "platform",
        text=ensemble_text(step(), head='platform: "ensemble" backend: "python"'),
    ),
    case("ensemble_no_platform", R, "platform", text=ensemble_text(step(), head="")),
    case("ensemble_python", R, "platform", text=ensemble_text(step(), head='backend: "python"')),
    case("ensemble_no_steps", R, "ensemble-steps", text=ensemble_text()),
    Case(
        name="ensemble_no_version",
        outcome=R,
        codes=("version-missing",),
        files={"@/config.pbtxt": ensemble_text(step()), **python_model(A_STEP, "@.a")},
    ),
    case("ensemble_no_inputs", R, "ensemble-unmade", text=ensemble_text(step(), inputs="")),
    case("ensemble_no_outputs", R, "ensemble-unused", text=ensemble_text(step(), outputs="")),
)

MAPS = (
    case(
        "map_model_absent",
        R,
        "ensemble-steps",
        text=ensemble_text(
            'step { input_map { key: "x" value: "in" } output_map { key: "y" value: "out" } }'
        ),
    ),
    case("map_no_inputs", R, "ensemble-map", text=ensemble_text(step(inputs=""))),
    case("map_no_outputs", R, "ensemble-map", text=ensemble_text(step(outputs=""))),
    case(
        "map_input_unused",
        R,
        "ensemble-unused",
        text=ensemble_text(step(), inputs=f"{IN} {tensor('input', 'more')}"),
    ),
    case(
        "map_output_unmade",
        R,
        "ensemble-unmade",
        text=ensemble_text(step(), outputs=f"{OUT} {tensor('output', 'more')}"),
    ),
    case(
        "map_tensor_unused",
        R,
        "ensemble-unused",
        text=ensemble_text(step(outputs='"y": "out", "z": "spare"')),
        a=step_config("a", outputs=f"{Y} {tensor('output', 'z')}"),
    ),
    case(
        "map_output_left",
        A,
        text=ensemble_text(step()),
        a=step_config("a", outputs=f"{Y} {tensor('output', 'z')}"),
    ),
    case("map_tensor_unmade", R, "ensemble-unmade", text=ensemble_text(step(inputs='"x": "nowhere"'))),
    case(
        "map_tensor_unmade_second",
        R,
        "ensemble-unmade",
        text=ensemble_text(step(inputs='"x": "in", "z": "nowhere"')),
        a=step_config("a", inputs=f"{X} {tensor('input', 'z')}"),
    ),
    case(
        "map_written_twice", R, "ensemble-twice", text=ensemble_text(step(), step("@.b")), a=A_STEP, b=B_STEP
    ),
    case(
        "map_input_written",
        A,
        "ensemble-input-written",
        text=ensemble_text(step(outputs='"y": "in"'), step("@.b")),
        a=A_STEP,
        b=B_STEP,
    ),
    case(
        "map_one_tensor_two_outputs",
        R,
        "ensemble-twice",
        text=ensemble_text(step(outputs='"y": "out", "z": "out"')),
        a=step_config("a", outputs=f"{Y} {tensor('output', 'z')}"),
    ),
    case(
        "map_one_tensor_two_inputs",
        A,
        text=ensemble_text(step(inputs='"x": "in", "z": "in"')),
        a=step_config("a", inputs=f"{X} {tensor('input', 'z')}"),
    ),
    case("map_key_twice", A, "duplicate-key", text=ensemble_text(step(inputs='"x": "other", "x": "in"'))),
    case("map_input_unknown", R, "ensemble-tensor", text=ensemble_text(step(inputs='"x": "in", "q": "in"'))),
    case(
        "map_output_unknown",
        R,
        "ensemble-tensor",
        text=ensemble_text(step(outputs='"y": "out", "q": "q"'), outputs=f"{OUT} {tensor('output', 'q')}"),
    ),
    case(
        "map_input_left",
        R,
        "ensemble-map",
        text=ensemble_text(step()),
        a=step_config("a", inputs=f"{X} {tensor('input', 'z')}"),
    ),
    case(
        "map_optional_left",
        A,
        text=ensemble_text(step()),
        a=step_config(
            "a", inputs=f'{X} input [ {{ name: "z" data_type: TYPE_FP32 dims: [ 4 ] optional: true }} ]'
        ),
    ),
    case(
        "map_loop",
        R,
        "ensemble-unmade",
        text=ensemble_text(
            step(inputs='"x": "in", "z": "back"', outputs='"y": "mid"'),
            step("@.b", inputs='"x": "mid"', outputs='"y": "back"'),
            outputs=tensor("output", "mid"),
        ),
        a=step_config("a", inputs=f"{X} {tensor('input', 'z')}"),
        b=B_STEP,
    ),
    case("map_pass_through", A, text=ensemble_text(step(), outputs=f"{OUT} {tensor('output', 'in')}")),
    case(
        "map_same_model_twice", A, text=ensemble_text(step(outputs='"y": "mid"'), step(inputs='"x": "mid"'))
    ),
)

STEPS = (
    case("step_missing", R, "step-model", text=ensemble_text(step("@.gone"))),
    case(
        "step_itself",
        R,
        "ensemble-cycle",
        text=ensemble_text(step("@", inputs='"in": "in"', outputs='"out": "out"')),
    ),
    case(
        "step_broken",
        R,
        "step-refused",
        text=ensemble_text(step()),
        a=step_config("a", inputs='input [ { name: "x" dims: [ 4 ] } ]'),
    ),
    case("step_version_missing", R, "step-version", text=ensemble_text(step(version="3"))),
    case("step_version_there", A, text=ensemble_text(step(version="1"))),
    case("step_version_zero", R, "step-version", text=ensemble_text(step(version="0"))),
    case("step_version_below", R, "step-version", text=ensemble_text(step(version="-2"))),
    case(
        "step_version_absent",
        R,
        "step-version",
        text=ensemble_text(
            'step { model_name: "@.a" input_map { key: "x" value: "in" } output_map { key: "y" value: "out" } }'
        ),
    ),
    case(
        "step_namespace",
        A,
        text=ensemble_text(
            'step { model_name: "@.a" model_version: -1 model_namespace: "n" input_map { key: "x" value: "in" } output_map { key: "y" value: "out" } }'
        ),
    ),
    case("batch_over_step", R, "ensemble-batch", text=ensemble_text(step(), batch="max_batch_size: 16")),
    case("batch_under_step", A, text=ensemble_text(step(), batch="max_batch_size: 4")),
    case(
        "batch_none_over_batched",
        A,
        "ensemble-batch-zero",
        text=ensemble_text(step(), batch="max_batch_size: 0"),
    ),
    case(
        "batch_none_full_shape",
        A,
        text=ensemble_text(
            step(),
            batch="max_batch_size: 0",
            inputs=tensor("input", "in", "-1, 4"),
            outputs=tensor("output", "out", "-1, 4"),
        ),
    ),
    case(
        "batch_step_unbatched",
        A,
        "ensemble-batch-zero",
        text=ensemble_text(step(), batch="max_batch_size: 8"),
        a=step_config("a", batch="max_batch_size: 0"),
    ),
    case(
        "batch_step_unbatched_full",
        A,
        text=ensemble_text(step(), batch="max_batch_size: 8"),
        a=step_config(
            "a",
            batch="max_batch_size: 0",
            inputs=tensor("input", "x", "-1, 4"),
            outputs=tensor("output", "y", "-1, 4"),
        ),
    ),
    case(
        "type_differs_in",
        R,
        "ensemble-type",
        text=ensemble_text(step(), inputs=tensor("input", "in", dtype="TYPE_INT32")),
    ),
    case(
        "type_differs_out",
        R,
        "ensemble-type",
        text=ensemble_text(step(), outputs=tensor("output", "out", dtype="TYPE_INT32")),
    ),
    case(
        "type_differs_between",
        R,
        "ensemble-type",
        text=ensemble_text(FIRST, SECOND),
        a=A_STEP,
        b=step_config("b", inputs=tensor("input", "x", dtype="TYPE_INT32")),
    ),
    case(
        "shape_differs_in", R, "ensemble-shape", text=ensemble_text(step(), inputs=tensor("input", "in", "5"))
    ),
    case(
        "shape_differs_rank",
        R,
        "ensemble-shape",
        text=ensemble_text(step(), outputs=tensor("output", "out", "4, 1")),
    ),
    case(
        "shape_differs_between",
        R,
        "ensemble-shape",
        text=ensemble_text(FIRST, SECOND),
        a=A_STEP,
        b=step_config("b", inputs=tensor("input", "x", "5")),
    ),
    case(
        "shape_variable_step",
        A,
        "ensemble-shape-open",
        text=ensemble_text(step(), outputs=tensor("output", "out", "5")),
        a=step_config("a", outputs=tensor("output", "y", "-1")),
    ),
    case("shape_variable_ensemble", A, text=ensemble_text(step(), inputs=tensor("input", "in", "-1"))),
    case(
        "shape_variable_between",
        A,
        "ensemble-shape-open",
        text=ensemble_text(FIRST, SECOND),
        a=step_config("a", outputs=tensor("output", "y", "-1")),
        b=B_STEP,
    ),
    case(
        "shape_reshaped_ensemble",
        A,
        text=ensemble_text(
            step(),
            inputs='input [ { name: "in" data_type: TYPE_FP32 dims: [ 2, 2 ] reshape { shape: [ 4 ] } } ]',
        ),
    ),
    case(
        "decoupled_mixed",
        R,
        "ensemble-decoupled",
        text=ensemble_text(
            step(outputs='"y": "p"'),
            step("@.b", outputs='"y": "q"'),
            step("@.c", inputs='"x": "p", "z": "q"'),
        ),
        a=step_config("a", rest="model_transaction_policy { decoupled: true }"),
        b=step_config("b", rest="model_transaction_policy { decoupled: true }"),
        c=step_config("c", inputs=f"{X} {tensor('input', 'z')}"),
    ),
)

CYCLE = Case(
    name="cycle",
    outcome=R,
    codes=("ensemble-cycle",),
    files={
        "@/config.pbtxt": ensemble_text(step("@.e", inputs='"in": "in"', outputs='"out": "out"')),
        "@/1/": "",
        "@.e/config.pbtxt": ensemble_text(step("@", inputs='"in": "in"', outputs='"out": "out"'), name="@.e"),
        "@.e/1/": "",
    },
)
NESTED = Case(
    name="nested",
    outcome=A,
    codes=(),
    files={
        **ensemble(ensemble_text(step("@.e", inputs='"in": "in"', outputs='"out": "out"')), a=A_STEP),
        "@.e/config.pbtxt": ensemble_text(step(), name="@.e"),
        "@.e/1/": "",
    },
)
NESTED_BROKEN = Case(
    name="nested_broken",
    outcome=R,
    codes=("step-refused",),
    files={
        **ensemble(ensemble_text(step("@.e", inputs='"in": "in"', outputs='"out": "out"')), a=A_STEP),
        "@.e/config.pbtxt": ensemble_text(step(inputs='"q": "in"'), name="@.e"),
        "@.e/1/": "",
    },
)

ENSEMBLE_CASES = (*OWN_FIELDS, *MAPS, *STEPS, CYCLE, NESTED, NESTED_BROKEN)
