"""Requests that are wrong in one to three ways, from a seed; and some that are odd and right all the same."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from tritonclient.grpc import service_pb2 as pb

from planner.manifest import SHARED_FRAMES
from planner.profile import DTYPE_BYTES, TensorSpec
from python_backend.wire import ticket_codec

_HUGE_BYTES = 5_000_000


@dataclass
class Draft:
    """A request in the making; starts as a right one for a dispatcher with input `spec`."""

    model: str
    spec: TensorSpec
    name: str = ""
    datatype: str = ""
    shape: list[int] = field(default_factory=list)
    content: bytes = b""
    parameters: dict[str, str | int | bool | float] = field(default_factory=dict)
    version: str = ""
    copies: int = 1
    right: bool = False

    def __post_init__(self) -> None:
        self.name, self.datatype = self.spec.name, self.spec.dtype
        self.shape = [1, *self.spec.shape]
        self.content = bytes(self.spec.bytes_per_frame)

    def message(self) -> pb.ModelInferRequest:
        """As it goes over the wire."""
        request = pb.ModelInferRequest(model_name=self.model, model_version=self.version)
        for _ in range(self.copies):
            request.inputs.add(name=self.name, datatype=self.datatype, shape=self.shape)
            request.raw_input_contents.append(self.content)
        for name, value in self.parameters.items():
            _set(request.parameters[name], value)
        return request


def wrong_request(rng: random.Random, models: Sequence[str], spec: TensorSpec, stage: bool) -> Draft:
    """One request. stage: `models` are stages, which take nothing without a ticket of their dispatcher."""
    draft = Draft(model=rng.choice(models), spec=spec)
    for spoil in rng.sample(_SPOILERS, rng.randint(1, 3)):
        spoil(rng, draft)
    if stage and rng.random() < 0.2:
        draft = Draft(model=draft.model, spec=spec)  # right but for its ticket
    if stage or rng.random() < 0.3:
        draft.parameters[ticket_codec.PARAMETER] = wrong_ticket(rng)
    return draft


def odd_request(rng: random.Random, model: str, spec: TensorSpec) -> Draft:
    """A frame of any bits at all, so of NaN and infinity too, under parameters that mean little."""
    draft = Draft(model=model, spec=spec, right=True)
    draft.content = rng.randbytes(spec.bytes_per_frame)
    odd: list[tuple[str, str | int | bool | float]] = [
        ("priority", 1 << 40),
        ("timeout", 1 << 61),
        ("who", "\u00fc" * 1_000),
        ("nan", math.nan),
    ]
    draft.parameters = dict(rng.sample(odd, rng.randint(0, 3)))
    return draft


def wrong_ticket(rng: random.Random) -> str:
    """Text that no dispatcher of the deployment has signed, and that is no probe either."""
    body = {
        "deployment": rng.choice(["emulated", "", None, 7]),
        "v": rng.choice([2, 2, 1, "2", None]),
        "revision": rng.choice([1, 0, -1, 1 << 70, "1", 1.5]),
        "hop": rng.choice([0, 1, 9, -1, None]),
        "batch": rng.choice([0, [], {}, -5]),
        "attempt": rng.choice([0, "0", None]),
        "pipeline": rng.choice([0, 99, -1]),
        "deadline_us": rng.choice([0, 1 << 61, 1 << 63, -1, "soon"]),
        "hops": rng.choice(
            [[], [[]], [["tiny.p0.s0.w0", "", 0, 0, 0, 0]], "hops", [[None] * 6], [0] * 2_000]
        ),
        "entry": rng.choice(["entry", "", None]),
        "back_us": rng.choice([0, 1 << 61, -1, "soon"]),
        "relative": rng.choice([True, False, 3]),
        "frames": rng.choice([["/etc/passwd", 1, 0, 1], ["../../etc/passwd", 0, 0, 0], [], None]),
        "mac": rng.choice(["", "0" * 64, "\u00e9", "f" * 63]),
    }
    for key in rng.sample(sorted(body), rng.randint(0, 3)):
        del body[key]
    text = json.dumps(body, separators=(",", ":"))
    return rng.choice(
        [
            text,
            text[: rng.randint(0, len(text))],
            "\x00" * 10,
            "[" * 10_000,
            "{" * 100,
            "null",
            "x" * 70_000,
            "",
        ]
    )


def _dtype(rng: random.Random, draft: Draft) -> None:
    wrong = {"FP64", "INT8", "BYTES", "", "NONSENSE", "BOOL", "FP16", "INT64"} - {draft.datatype}
    draft.datatype = rng.choice(sorted(wrong))
    if rng.random() < 0.5 and draft.datatype in DTYPE_BYTES:
        draft.content = bytes(DTYPE_BYTES[draft.datatype] * _elements(draft.spec))


def _shape(rng: random.Random, draft: Draft) -> None:
    right = [1, *draft.spec.shape]
    shapes = [
        [],
        [0],
        [1],
        [9, *right[1:]],  # more frames than a request may have
        [1, 999],
        [-1, *right[1:]],
        [1 << 40, *right[1:]],
        [1, *right],
        [0, 0],
    ]
    shapes.append([64, *right[1:]])
    draft.shape = rng.choice(shapes)
    if rng.random() < 0.3 and 0 < len(draft.shape) < 4 and 0 < draft.shape[0] <= 64:
        draft.content = bytes(draft.spec.bytes_per_frame * draft.shape[0])


def _name(rng: random.Random, draft: Draft) -> None:
    draft.name = rng.choice(["", "x", f"{draft.name} ", "\x00", "n" * 10_000, SHARED_FRAMES, "\u00fc"])


def _size(rng: random.Random, draft: Draft) -> None:
    right = draft.content
    draft.content = rng.choice([b"", b"\x00", right[:-1], right + b"\x00", bytes(_HUGE_BYTES)])


def _priority(rng: random.Random, draft: Draft) -> None:
    values: list[str | int | bool | float] = ["", "high", "1e9", "9" * 400, "\x00", True, -5]
    draft.parameters["priority"] = rng.choice(values)


def _model(rng: random.Random, draft: Draft) -> None:
    draft.model = rng.choice(["", "nobody", f"{draft.model}/1", f"../{draft.model}", "m" * 5_000])


def _version(rng: random.Random, draft: Draft) -> None:
    draft.version = rng.choice(["7", "-1", "latest", "9" * 30])


def _twice(rng: random.Random, draft: Draft) -> None:
    draft.copies = rng.choice([0, 2, 3])


_SPOILERS: tuple[Callable[[random.Random, Draft], None], ...] = (
    _dtype, _shape, _name, _size, _priority, _model, _version, _twice,
)  # fmt: skip


def _elements(spec: TensorSpec) -> int:
    return spec.bytes_per_frame // DTYPE_BYTES[spec.dtype]


def _set(parameter: pb.InferParameter, value: str | int | bool | float) -> None:
    if isinstance(value, bool):
        parameter.bool_param = value
    elif isinstance(value, int):
        parameter.int64_param = value
    elif isinstance(value, float):
        parameter.double_param = value
    else:
        parameter.string_param = value
