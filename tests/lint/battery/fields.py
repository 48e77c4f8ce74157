# ruff: noqa: E501 (a table of configurations, a line of config.pbtxt each)
"""Fields of one model: tensors, batching, instances, versions, parameters."""

from tests.lint.battery.case import Case, Outcome, X, Y, config, python_model

R, A, HANGS = Outcome.REFUSED, Outcome.ACCEPTED, Outcome.HANGS


def one(case: str, outcome: Outcome, /, *codes: str, **parts: str) -> Case:
    """A Python model whose config differs from a good one in `parts`."""
    return Case(name=case, outcome=outcome, codes=codes, files=python_model(config(**parts)))


def x(text: str) -> str:
    return f"input [ {{ {text} }} ]"


def y(text: str) -> str:
    return f"output [ {{ {text} }} ]"


SEQUENCE = 'sequence_batching {{ control_input [ {{ name: "START" control [ {{ {} }} ] }} ] }}'

TENSORS = (
    one("good", A),
    one("dims_zero", R, "dims", inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 0 ]')),
    one("dims_below", R, "dims", inputs=x('name: "x" data_type: TYPE_FP32 dims: [ -2 ]')),
    one("dims_empty", R, "dims", inputs=x('name: "x" data_type: TYPE_FP32 dims: [ ]')),
    one("dims_absent", R, "dims", outputs=y('name: "y" data_type: TYPE_FP32')),
    one("dims_variable", A, inputs=x('name: "x" data_type: TYPE_FP32 dims: [ -1 ]')),
    one("tensor_nameless", R, "tensor-name", inputs=x("data_type: TYPE_FP32 dims: [ 4 ]")),
    one("type_absent", R, "data-type", inputs=x('name: "x" dims: [ 4 ]')),
    one("type_invalid", R, "data-type", inputs=x('name: "x" data_type: TYPE_INVALID dims: [ 4 ]')),
    one("type_unknown", R, "syntax", inputs=x('name: "x" data_type: TYPE_FP8 dims: [ 4 ]')),
    one("inputs_twice", A, "duplicate-tensor", inputs=f"{X} {X}"),
    one("outputs_twice", A, "duplicate-tensor", outputs=f"{Y} {Y}"),
    one("inputs_none", A, "no-tensors", inputs=""),
    one("outputs_none", A, "no-tensors", outputs=""),
    one("same_in_out", A, outputs=y('name: "x" data_type: TYPE_FP32 dims: [ 4 ]')),
    one(
        "reshape_size",
        R,
        "reshape",
        inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 5 ] }'),
    ),
    one(
        "reshape_good", A, inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 2, 2 ] }')
    ),
    one("reshape_scalar", A, inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }')),
    one(
        "reshape_scalar_unbatched",
        R,
        "reshape",
        batch="max_batch_size: 0",
        inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 1 ] reshape { shape: [ ] }'),
    ),
    one(
        "reshape_zero",
        R,
        "reshape",
        inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 4 ] reshape { shape: [ 0 ] }'),
    ),
    one(
        "reshape_variable",
        R,
        "reshape",
        inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 2, -1 ] reshape { shape: [ -1, 3 ] }'),
    ),
    one(
        "reshape_variable_good",
        A,
        inputs=x('name: "x" data_type: TYPE_FP32 dims: [ 2, 4, -1, 6 ] reshape { shape: [ 8, -1, 1, 6 ] }'),
    ),
    one(
        "reshape_variables_more",
        R,
        "reshape",
        outputs=y('name: "y" data_type: TYPE_FP32 dims: [ -1, -1 ] reshape { shape: [ -1 ] }'),
    ),
    one(
        "format_dims",
        R,
        "tensor-format",
        inputs=x('name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 4 ]'),
    ),
    one(
        "format_good",
        A,
        inputs=x('name: "x" data_type: TYPE_FP32 format: FORMAT_NCHW dims: [ 3, 8, 8 ]'),
    ),
    one(
        "shape_tensor",
        R,
        "tensorrt-only",
        inputs=x('name: "x" data_type: TYPE_INT32 dims: [ 4 ] is_shape_tensor: true'),
    ),
    one(
        "nonlinear",
        R,
        "tensorrt-only",
        outputs=y('name: "y" data_type: TYPE_FP32 dims: [ 4 ] is_non_linear_format_io: true'),
    ),
    one("ragged", A, inputs=x('name: "x" data_type: TYPE_FP32 dims: [ -1 ] allow_ragged_batch: true')),
    one(
        "optional",
        A,
        inputs=f"{X} {x('name: ' + chr(34) + 'z' + chr(34) + ' data_type: TYPE_FP32 dims: [ 4 ] optional: true')}",
    ),
    one(
        "labels_missing",
        R,
        "label-file",
        outputs=y('name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt"'),
    ),
    Case(
        name="labels_there",
        outcome=A,
        codes=(),
        files={
            **python_model(
                config(outputs=y('name: "y" data_type: TYPE_FP32 dims: [ 4 ] label_filename: "labels.txt"'))
            ),
            "@/labels.txt": "a\nb\nc\nd\n",
        },
    ),
    one(
        "batch_input_kind",
        R,
        "batch-io",
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 } ]',
    ),
    one(
        "batch_input_type",
        R,
        "batch-io",
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_INT8 source_input: "x" } ]',
    ),
    one(
        "batch_input_source",
        R,
        "batch-io",
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "q" } ]',
    ),
    one(
        "batch_input_good",
        A,
        rest='batch_input [ { kind: BATCH_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x" } ]',
    ),
    one(
        "batch_output_target",
        R,
        "batch-io",
        rest='batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: "q" source_input: "x" } ]',
    ),
    one(
        "batch_output_twice",
        R,
        "batch-io",
        rest='batch_output [ { kind: BATCH_SCATTER_WITH_INPUT_SHAPE target_name: ["y", "y"] source_input: "x" } ]',
    ),
)

BATCHING = (
    one("batch_negative", R, "max-batch-size", batch="max_batch_size: -1"),
    one("batch_absent", A, batch=""),
    one("dynamic", A, rest="dynamic_batching { }"),
    one(
        "dynamic_unbatched",
        A,
        "dynamic-batching-unbatched",
        batch="max_batch_size: 0",
        rest="dynamic_batching { }",
    ),
    one("preferred_large", R, "preferred-batch", rest="dynamic_batching { preferred_batch_size: [ 4, 16 ] }"),
    one("preferred_zero", R, "preferred-batch", rest="dynamic_batching { preferred_batch_size: [ 0 ] }"),
    one("preferred_negative", R, "preferred-batch", rest="dynamic_batching { preferred_batch_size: [ -4 ] }"),
    one(
        "preferred_unbatched",
        R,
        "preferred-batch",
        batch="max_batch_size: 0",
        rest="dynamic_batching { preferred_batch_size: [ 1 ] }",
    ),
    one("priority_default", R, "priority-levels", rest="dynamic_batching { priority_levels: 2 }"),
    one(
        "priority_high",
        R,
        "priority-levels",
        rest="dynamic_batching { priority_levels: 2 default_priority_level: 3 }",
    ),
    one("priority_good", A, rest="dynamic_batching { priority_levels: 2 default_priority_level: 1 }"),
    one(
        "priority_policy",
        R,
        "priority-levels",
        rest="dynamic_batching { priority_levels: 2 default_priority_level: 1 "
        "priority_queue_policy { key: 3 value { max_queue_size: 1 } } }",
    ),
    one(
        "priority_policy_unused",
        A,
        "priority-unused",
        rest="dynamic_batching { priority_queue_policy { key: 3 value { max_queue_size: 1 } } }",
    ),
    one(
        "ordering_priorities",
        R,
        "preserve-ordering",
        rest="dynamic_batching { preserve_ordering: true priority_levels: 2 default_priority_level: 1 }",
    ),
    one(
        "ordering_delay",
        R,
        "preserve-ordering",
        rest="dynamic_batching { preserve_ordering: true "
        "default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 5 } }",
    ),
    one("sequence_good", A, rest=SEQUENCE.format("kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ]")),
    one("sequence_bare", A, rest="sequence_batching { }"),
    one(
        "sequence_one_value",
        R,
        "sequence-control",
        rest=SEQUENCE.format("kind: CONTROL_SEQUENCE_START fp32_false_true: [ 1 ]"),
    ),
    one("sequence_no_value", R, "sequence-control", rest=SEQUENCE.format("kind: CONTROL_SEQUENCE_START")),
    one(
        "sequence_two_types",
        R,
        "sequence-control",
        rest=SEQUENCE.format(
            "kind: CONTROL_SEQUENCE_END fp32_false_true: [ 0, 1 ] int32_false_true: [ 0, 1 ]"
        ),
    ),
    one(
        "sequence_corrid_type",
        R,
        "sequence-control",
        rest=SEQUENCE.format("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_FP32"),
    ),
    one(
        "sequence_corrid_good",
        A,
        rest=SEQUENCE.format("kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64"),
    ),
    one(
        "sequence_control_twice",
        R,
        "sequence-control",
        rest='sequence_batching { control_input [ { name: "A" control [ { kind: CONTROL_SEQUENCE_START '
        'int32_false_true: [ 0, 1 ] } ] }, { name: "B" control [ { kind: CONTROL_SEQUENCE_START '
        "int32_false_true: [ 0, 1 ] } ] } ] }",
    ),
    one(
        "sequence_preferred",
        R,
        "preferred-batch",
        rest="sequence_batching { oldest { preferred_batch_size: [ 16 ] } }",
    ),
    one(
        "sequence_slots",
        R,
        "slot-utilization",
        rest="sequence_batching { direct { minimum_slot_utilization: 1.5 } }",
    ),
    one("sequence_cache", R, "response-cache", rest="sequence_batching { } response_cache { enable: true }"),
    one("cache", A, rest="response_cache { enable: true }"),
    one(
        "decoupled_cache",
        R,
        "response-cache",
        rest="model_transaction_policy { decoupled: true } response_cache { enable: true }",
    ),
    one("decoupled", A, rest="model_transaction_policy { decoupled: true }"),
    one("two_schedulers", R, "syntax", rest="dynamic_batching { } sequence_batching { }"),
)

GROUP = "instance_group [ {{ {} }} ]"

INSTANCES = (
    one("cpu", A, rest=GROUP.format("kind: KIND_CPU count: 2")),
    one("gpu_kind", R, "gpu", rest=GROUP.format("kind: KIND_GPU")),
    one("gpu_listed", R, "gpu", rest=GROUP.format("kind: KIND_GPU gpus: [ 0 ]")),
    one("gpu_auto_listed", R, "gpu", rest=GROUP.format("gpus: [ 0 ]")),
    one("gpu_on_cpu", R, "gpus-not-allowed", rest=GROUP.format("kind: KIND_CPU gpus: [ 0 ]")),
    one("gpu_on_model", R, "gpus-not-allowed", rest=GROUP.format("kind: KIND_MODEL gpus: [ 0 ]")),
    one("kind_model", A, rest=GROUP.format("kind: KIND_MODEL")),
    one("instance_count_zero", A, rest=GROUP.format("kind: KIND_CPU count: 0")),
    one("instance_count_negative", A, "instance-count", rest=GROUP.format("kind: KIND_CPU count: -3")),
    one(
        "instance_names_twice",
        A,
        "duplicate-instance",
        rest='instance_group [ { name: "a" kind: KIND_CPU }, { name: "a" kind: KIND_CPU } ]',
    ),
    one("profile", R, "tensorrt-only", rest=GROUP.format('kind: KIND_CPU profile: [ "0" ]')),
    one(
        "secondary",
        A,
        rest=GROUP.format("kind: KIND_CPU secondary_devices [ { kind: KIND_NVDLA device_id: 0 } ]"),
    ),
    one("passive", A, rest=GROUP.format("kind: KIND_CPU passive: true")),
    one(
        "rate_limiter",
        A,
        rest=GROUP.format('kind: KIND_CPU rate_limiter { resources [ { name: "r" count: 1 } ] priority: 1 }'),
    ),
    one("host_policy", A, rest=GROUP.format('kind: KIND_CPU host_policy: "h"')),
)

OTHERS = (
    one("name_differs", R, "name", name="other"),
    one("name_absent", A, name=""),
    one("unknown_field", R, "unknown-field", rest="max_bach_size: 3"),
    one(
        "newer_metrics",
        R,
        "newer-field",
        rest='model_metrics { metric_control [ { metric_identifier { family: "f" } histogram_options { buckets: [ 1 ] } } ] }',
    ),
    one("wrong_type", R, "syntax", batch='max_batch_size: "8"'),
    one("unbalanced", R, "syntax", rest="dynamic_batching {"),
    one("singular_twice", R, "syntax", batch="max_batch_size: 8 max_batch_size: 8"),
    one("name_twice", R, "syntax", rest='name: "@"'),
    one("too_large", R, "syntax", batch="max_batch_size: 99999999999"),
    one("comment_separators", A, batch="max_batch_size: 8; # eight", rest="# the end"),
    one("hexadecimal", A, batch="max_batch_size: 0x8"),
    one("single_quotes", A, head="backend: 'py' 'thon'"),
    one("parameter_bare", R, "syntax", rest='parameters { key: "a" value: "b" }'),
    one("parameter_number", R, "unknown-field", rest='parameters { key: "a" value: { int64_value: 3 } }'),
    one("parameter_good", A, rest='parameters { key: "a" value: { string_value: "b" } }'),
    one(
        "parameter_twice",
        A,
        "duplicate-key",
        rest='parameters { key: "a" value { string_value: "b" } } parameters { key: "a" value { string_value: "c" } }',
    ),
    one(
        "force_cpu_bad",
        R,
        "python-parameter",
        rest='parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "maybe" } }',
    ),
    one(
        "force_cpu_good",
        A,
        rest='parameters { key: "FORCE_CPU_ONLY_INPUT_TENSORS" value { string_value: "no" } }',
    ),
    one(
        "environment_missing",
        R,
        "execution-env",
        rest='parameters { key: "EXECUTION_ENV_PATH" value { string_value: "/nowhere/env.tar.gz" } }',
    ),
    one(
        "environment_relative",
        R,
        "execution-env",
        rest='parameters { key: "EXECUTION_ENV_PATH" value { string_value: "$$TRITON_MODEL_DIRECTORY/env.tar.gz" } }',
    ),
    one("backend_absent", A, head=""),
    one("backend_unknown", R, "backend", head='backend: "pyhton"'),
    one("backend_not_installed", R, "backend", head='backend: "onnxruntime"'),
    one("platform_unknown", R, "backend", head='platform: "python"'),
    one("platform_python_both", A, head='platform: "python" backend: "python"'),
    one("platform_mismatch", R, "platform", head='platform: "tensorrt_plan" backend: "onnxruntime"'),
    one("platform_for_python", A, "platform-ignored", head='platform: "onnxruntime_onnx" backend: "python"'),
    one("platform_ensemble_bare", R, "ensemble-steps", head='platform: "ensemble"'),
    one("platform_ensemble_backend", R, "platform", head='platform: "ensemble" backend: "python"'),
    one("runtime", R, "runtime", rest='runtime: "libtriton_nothing.so"'),
    one("filename_missing", HANGS, "model-file-hangs", rest='default_model_filename: "other.py"'),
    one("cc_filename", A, rest='cc_model_filenames { key: "8.0" value: "other.py" }'),
    one("agents", R, "agent", rest='model_repository_agents { agents [ { name: "checksum" } ] }'),
    one("optimization", A, rest="optimization { priority: PRIORITY_MAX }"),
    one("metric_tags", A, rest='metric_tags { key: "a" value: "b" }'),
    one("version_latest_zero", R, "version-missing", rest="version_policy { latest { num_versions: 0 } }"),
    one("version_latest", A, rest="version_policy { latest { num_versions: 2 } }"),
    one("version_latest_bare", R, "version-missing", rest="version_policy { latest { } }"),
    one("version_all", A, rest="version_policy { all { } }"),
    one("version_policy_empty", A, rest="version_policy { }"),
    one("version_specific", A, rest="version_policy { specific { versions: [ 1 ] } }"),
    one(
        "version_specific_missing",
        R,
        "version-missing",
        rest="version_policy { specific { versions: [ 2 ] } }",
    ),
    one(
        "version_specific_some",
        A,
        "version-absent",
        rest="version_policy { specific { versions: [ 1, 2 ] } }",
    ),
    one("version_specific_none", R, "version-missing", rest="version_policy { specific { } }"),
)

FIELD_CASES = TENSORS + BATCHING + INSTANCES + OTHERS
