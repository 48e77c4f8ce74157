# ruff: noqa: E501 (a table of configurations)
"""model_warmup: requests that the server makes for itself while it loads."""

from tests.lint.battery.case import Case, Outcome, config, python_model

R, A = Outcome.REFUSED, Outcome.ACCEPTED
GOOD_INPUT = 'inputs { key: "x" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }'


def warmup(
    case: str,
    outcome: Outcome,
    /,
    *codes: str,
    sample: str,
    files: dict[str, str] | None = None,
    **parts: str,
) -> Case:
    """A Python model with one warm-up sample."""
    text = config(rest=f'model_warmup [ {{ name: "w" {sample} }} ]', **parts)
    return Case(name=case, outcome=outcome, codes=codes, files={**python_model(text), **(files or {})})


def given(value: str, batch: int = 1) -> str:
    return f'batch_size: {batch} inputs {{ key: "x" value {{ {value} }} }}'


UNBATCHED = {"batch": "max_batch_size: 0"}

WARMUP_CASES = (
    warmup("warmup_good", A, sample=f"batch_size: 8 {GOOD_INPUT}"),
    warmup("warmup_random", A, sample=given("data_type: TYPE_FP32 dims: [ 4 ] random_data: true")),
    warmup("warmup_batch_absent", A, "warmup-batch-zero", sample=GOOD_INPUT),
    warmup("warmup_no_inputs", R, "warmup-input", sample="batch_size: 1"),
    warmup("warmup_no_data", R, "warmup-input", sample=given("data_type: TYPE_FP32 dims: [ 4 ]")),
    warmup("warmup_zero_false", A, sample=given("data_type: TYPE_FP32 dims: [ 4 ] zero_data: false")),
    warmup(
        "warmup_type", R, "warmup-input", sample=given("data_type: TYPE_INT32 dims: [ 4 ] zero_data: true")
    ),
    warmup("warmup_type_absent", R, "warmup-input", sample=given("dims: [ 4 ] zero_data: true")),
    warmup(
        "warmup_dims", R, "warmup-input", sample=given("data_type: TYPE_FP32 dims: [ 5 ] zero_data: true")
    ),
    warmup("warmup_dims_absent", R, "warmup-input", sample=given("data_type: TYPE_FP32 zero_data: true")),
    warmup(
        "warmup_dims_variable",
        R,
        "warmup-input",
        sample=given("data_type: TYPE_FP32 dims: [ -1 ] zero_data: true"),
    ),
    warmup(
        "warmup_unknown",
        R,
        "warmup-input",
        sample='batch_size: 1 inputs { key: "q" value { data_type: TYPE_FP32 dims: [ 4 ] zero_data: true } }',
    ),
    warmup(
        "warmup_unknown_too",
        A,
        "warmup-input-unknown",
        sample=f'batch_size: 1 {GOOD_INPUT} inputs {{ key: "q" value {{ data_type: TYPE_FP32 dims: [ 4 ] zero_data: true }} }}',
    ),
    warmup(
        "warmup_file_missing",
        R,
        "warmup-file",
        sample=given('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "no"'),
    ),
    warmup(
        "warmup_file_short",
        R,
        "warmup-file",
        sample=given('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "d"'),
        files={"@/warmup/d": "12345678"},
    ),
    warmup(
        "warmup_file_good",
        A,
        sample=given('data_type: TYPE_FP32 dims: [ 4 ] input_data_file: "d"'),
        files={"@/warmup/d": "1234567812345678"},
    ),
    warmup("warmup_unbatched", A, sample=f"batch_size: 1 {GOOD_INPUT}", **UNBATCHED),
    warmup("warmup_count", A, sample=f"batch_size: 1 count: 2 {GOOD_INPUT}"),
)
DIES_OF_WARMUPS = (
    warmup(
        "warmup_batch_large", Outcome.DIES_OR_REFUSED, "warmup-batch", sample=f"batch_size: 9 {GOOD_INPUT}"
    ),
    warmup(
        "warmup_unbatched_two",
        Outcome.DIES_OR_REFUSED,
        "warmup-batch",
        sample=f"batch_size: 2 {GOOD_INPUT}",
        **UNBATCHED,
    ),
)
