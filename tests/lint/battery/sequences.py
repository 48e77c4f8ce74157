# ruff: noqa: E501 (a table of configurations, a line of config.pbtxt each)
"""Sequence batching: implicit states, what they begin with, and other ways to write it."""

from tests.lint.battery.case import Case, Outcome, config, python_model

R, A = Outcome.REFUSED, Outcome.ACCEPTED
SIXTEEN = {"@/initial_state/d": "0123456789abcdef"}
INITIAL, FILE, FOLDER = "initial-state", "initial-state-file", "initial-state-folder"


def sequence(
    case: str, outcome: Outcome, /, *codes: str, text: str, files: dict[str, str] | None = None, **parts: str
) -> Case:
    """A Python model with `sequence_batching { text }`.

    A refused initial state leaves an instance behind that was made already: of 18 such models asked one by one
    all were refused, four times out of five, and once the server ended (SIGSEGV); asked four at a time it ended
    two times out of four.
    """
    written = config(rest=f"sequence_batching {{ {text} }}", **parts)
    return Case(
        name=case,
        outcome=outcome,
        codes=codes,
        files={**python_model(written), **(files or {})},
        deadly_by_chance=outcome is R and "initial_state" in text,
    )


def state(
    initial: str = "", *, inward: str = "a", outward: str = "b", dims: str = "[ 4 ]", more: str = ""
) -> str:
    """One state of FP32, with what it begins with."""
    return f'state [ {{ input_name: "{inward}" output_name: "{outward}" data_type: TYPE_FP32 dims: {dims} {more} {initial} }} ]'


def initial(
    *,
    name: str = 'name: "s"',
    dtype: str = "data_type: TYPE_FP32",
    dims: str = "[ 4 ]",
    data: str = "zero_data: true",
) -> str:
    return f"initial_state: {{ {name} {dtype} dims: {dims} {data} }}"


def beginning(
    case: str,
    outcome: Outcome,
    /,
    *codes: str,
    of: str = "[ 4 ]",
    files: dict[str, str] | None = None,
    **parts: str,
) -> Case:
    """A state of dims `of` whose initial state differs from a good one in `parts`."""
    return sequence(case, outcome, *codes, text=state(initial(**parts), dims=of), files=files)


STATES = (
    sequence("state_good", A, text=state()),
    sequence("state_variable", A, text=state(dims="[ -1 ]")),
    sequence("state_same_buffer", A, text=state(more="use_same_buffer_for_input_output: true")),
    sequence(
        "state_growable",
        A,
        text=state(more="use_same_buffer_for_input_output: true use_growable_memory: true"),
    ),
    sequence("state_is_input_too", A, text=state(inward="x")),
    sequence("state_is_output_too", A, text=state(outward="y")),
    sequence("state_unbatched", A, text=state(initial()), batch="max_batch_size: 0"),
    sequence("state_oldest", A, text=f"oldest {{ max_candidate_sequences: 4 }} {state(initial())}"),
    sequence("state_direct", A, text=f"direct {{ max_queue_delay_microseconds: 5 }} {state(initial())}"),
    sequence("state_of_strings", A, text=state().replace("TYPE_FP32", "TYPE_STRING")),
    sequence(
        "state_two_good", A, text=state(inward="a", outward="a_next") + state(inward="b", outward="b_next")
    ),
    sequence(
        "state_two_swapped",
        A,
        "state-swapped",
        text=state(inward="cache", outward="cache_next")
        + state(inward="cache_len", outward="cache_len_next"),
    ),
    sequence(
        "state_three_turned",
        A,
        "state-swapped",
        text=state(inward="a", outward="z") + state(inward="b", outward="x") + state(inward="c", outward="y"),
    ),
)

BEGINNINGS = (
    beginning("initial_good", A),
    beginning("initial_zero_false", A, data="zero_data: false"),
    beginning("initial_nameless", R, INITIAL, name=""),
    beginning("initial_without_data", R, INITIAL, data=""),
    beginning("initial_type", R, INITIAL, dtype="data_type: TYPE_INT32"),
    beginning("initial_type_absent", R, INITIAL, dtype=""),
    beginning("initial_dims_absent", R, INITIAL, dims="[ ]"),
    beginning("initial_dims_rank", R, INITIAL, dims="[ 2, 2 ]"),
    beginning("initial_dims_size", R, INITIAL, dims="[ 5 ]"),
    beginning("initial_dims_zero", R, INITIAL, dims="[ 0 ]"),
    beginning("initial_dims_below", R, INITIAL, dims="[ -2 ]"),
    beginning("initial_dims_variable", R, INITIAL, dims="[ -1 ]", of="[ -1 ]"),
    beginning("initial_dims_of_variable", A, dims="[ 5 ]", of="[ -1 ]"),
    beginning("initial_dims_of_part", R, INITIAL, dims="[ 5, 3 ]", of="[ -1, 4 ]"),
    sequence("initial_two", R, INITIAL, text=state(initial() + initial(name='name: "t"'))),
    beginning("initial_file", A, data='data_file: "d"', files=SIXTEEN),
    beginning("initial_file_long", A, data='data_file: "d"', files={"@/initial_state/d": "x" * 20}),
    beginning("initial_file_short", R, FILE, data='data_file: "d"', files={"@/initial_state/d": "x" * 12}),
    beginning("initial_file_missing", R, FILE, data='data_file: "d"'),
    beginning("initial_file_unnamed", R, FILE, data='data_file: ""'),
    beginning("initial_file_elsewhere", R, FILE, data='data_file: "d"', files={"@/d": "x" * 16}),
    beginning("initial_file_outside", R, FILE, data='data_file: "../d"', files={"@/d": "x" * 16}),
    beginning("initial_file_outside_there", A, data='data_file: "../d"', files={"@/d": "x" * 16, **SIXTEEN}),
    beginning("initial_file_deeper", A, data='data_file: "sub/d"', files={"@/initial_state/sub/d": "x" * 16}),
    beginning("initial_file_dot", A, data='data_file: "./d"', files=SIXTEEN),
    beginning("initial_file_absolute", R, FILE, data='data_file: "/etc/hostname"', files=SIXTEEN),
    sequence(
        "initial_file_strings",
        A,
        text=state(initial(data='data_file: "d"')).replace("TYPE_FP32", "TYPE_STRING"),
        files={"@/initial_state/d": "xyz"},
    ),
)

OTHER_WAYS = (
    sequence("sequence_iterative", A, text="iterative_sequence: true"),
    sequence("sequence_idle", A, text="max_sequence_idle_microseconds: 5000000"),
    sequence("sequence_candidates_none", A, text="oldest { max_candidate_sequences: 0 }"),
    sequence("sequence_ordered", A, text="oldest { preserve_ordering: true max_candidate_sequences: 2 }"),
    sequence("sequence_control_bare", A, text='control_input [ { name: "S" } ]'),
    sequence(
        "sequence_control_bool",
        A,
        text='control_input [ { name: "S" control [ { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } ] } ]',
    ),
    sequence(
        "sequence_corrid_string",
        A,
        text='control_input [ { name: "S" control [ { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } ] } ]',
    ),
    sequence(
        "sequence_corrid_values",
        R,
        "sequence-control",
        text='control_input [ { name: "S" control [ { kind: CONTROL_SEQUENCE_CORRID int32_false_true: [ 0, 1 ] data_type: TYPE_UINT64 } ] } ]',
    ),
    sequence(
        "sequence_control_nameless",
        R,
        "sequence-control",
        text="control_input [ { control [ { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } ] } ]",
    ),
)

SEQUENCE_CASES = STATES + BEGINNINGS + OTHER_WAYS
DIES_OF_STATES = (
    beginning(
        "initial_file_folder", Outcome.DIES, FOLDER, data='data_file: "d"', files={"@/initial_state/d/": ""}
    ),
)
