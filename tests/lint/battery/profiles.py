"""`profile` of TensorRT plans: what the server's core makes of the text before TensorRT has a say.

There is no TensorRT here: the library that the server loads for it is the Python backend's, under its name,
which is enough to be refused by the core. What it takes is in test_lint_backends.py.
"""

from tests.lint.battery.case import MODEL_PY, Case, Outcome, config

LIBRARY = "@/libtriton_tensorrt.so"


def profiled(case: str, *codes: str, profile: str, outcome: Outcome = Outcome.REFUSED) -> Case:
    """A TensorRT model with these profiles."""
    text = config(
        head='platform: "tensorrt_plan" default_model_filename: "model.py"',
        rest=f"instance_group [ {{ kind: KIND_CPU profile: {profile} }} ]",
    )
    files = {"@/config.pbtxt": text, "@/1/model.py": MODEL_PY, LIBRARY: ""}
    return Case(name=case, outcome=outcome, codes=codes, files=files, library=LIBRARY)


PROFILE_CASES = (
    profiled("profile_word", "profile", profile='"abc"'),
    profiled("profile_empty", "profile", profile='""'),
    profiled("profile_below", "profile", profile='"-1"'),
    profiled("profile_second_word", "profile", profile='[ "0", "x" ]'),
)
DIES_OF_PROFILES = (profiled("profile_huge", "profile-huge", profile='"99999999999"', outcome=Outcome.DIES),)
