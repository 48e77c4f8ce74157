"""Which answers are right: those of hosts with libturbojpeg and of hosts without it, and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from tritonclient.grpc import service_pb2

from ensembles.prepare import planes, turbojpeg
from model_repo_generator.emulated import EmulatedModel, EmulatedPipeline, EmulatedStage, write_deployment
from planner.deployment import ModelSpec, parse_deployment
from planner.profile import TensorSpec
from ppipe.bench.frames import make_pictures
from ppipe.bench.reference import Reference, make_inputs, make_reference
from ppipe.bench.target import Inputs


def response(*values: float) -> service_pb2.ModelInferResponse:
    answer = service_pb2.ModelInferResponse()
    for name, value in zip("yz", values, strict=True):
        answer.outputs.add(name=name, datatype="FP32", shape=[1, 1])
        answer.raw_output_contents.append(np.float32(value).tobytes())
    return answer


def right(*values: float) -> dict[str, npt.NDArray[np.float32]]:
    return {name: np.array([value], np.float32) for name, value in zip("yz", values, strict=True)}


REFERENCE = Reference(
    model="m",
    ways=(frozenset("yz"),),
    answers=(right(1, 2), right(5, 6)),
    otherwise=(right(1.1, 2.1), None),
)


@pytest.mark.parametrize(
    ("frame", "values", "is_right"),
    [
        (0, (1, 2), True),
        (0, (1.1, 2.1), True),
        (0, (1, 2.1), False),
        (0, (1.05, 2.05), False),
        (0, (5, 6), False),
        (1, (5, 6), True),
        (1, (1.1, 2.1), False),
    ],
)
def test_an_answer_is_right_if_all_its_outputs_are_of_one_way(
    frame: int, values: tuple[float, float], is_right: bool
) -> None:
    error, matched = REFERENCE.compare(frame, response(*values))
    assert matched == is_right
    assert (error <= REFERENCE.tolerance) == is_right


SIZE = 32
PICTURES = make_pictures(3, seed=5)


class Means(torch.nn.Module):
    """Of each of four stripes, so that a picture's answer tells how its chroma was made up."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.reshape(image.shape[0], -1, 4).mean(1) * 100


def spec() -> ModelSpec:
    return parse_deployment(
        {
            "name": "d",
            "cluster": {
                "gpu_classes": [{"name": "L4"}],
                "groups": [
                    {"gpu": "L4", "gpus_per_server": 1, "servers": [{"name": "a", "host": "127.0.0.1"}]}
                ],
            },
            "models": [
                {
                    "name": "net",
                    "program": {"factory": f"{__name__}:Means"},
                    "input": {"name": "image", "dtype": "FP32", "shape": [3, SIZE, SIZE]},
                    "slo_ms": 100,
                    "preprocess": {"kind": "jpeg", "mean": 0, "std": 1},
                }
            ],
        },
        "d",
    ).models[0]


def served(inputs: Inputs) -> service_pb2.ModelInferResponse:
    means = Means()(torch.from_numpy(inputs[0][None])).numpy()
    answer = service_pb2.ModelInferResponse()
    answer.outputs.add(name="means", datatype="FP32", shape=[1, 4])
    answer.raw_output_contents.append(means.tobytes())
    return answer


@pytest.mark.skipif(turbojpeg.library() is None, reason=f"no {turbojpeg.LIBRARY} here")
def test_both_ways_of_preparing_a_jpeg_are_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = EmulatedModel(
        name="net",
        slo_us=100_000,
        planned_rps=1.0,
        input=TensorSpec("image", "FP32", (3, SIZE, SIZE)),
        pipelines=(
            EmulatedPipeline(1, (EmulatedStage((1_000,), ("a",), (TensorSpec("means", "FP32", (4,)),)),)),
        ),
    )
    entry = write_deployment(tmp_path, [model], 30_000).models[0]
    by_planes = make_inputs(spec(), PICTURES)
    reference = make_reference(spec(), entry, tmp_path, by_planes, PICTURES)
    monkeypatch.setattr(planes, "library", lambda: None)
    whole = make_inputs(spec(), PICTURES)
    for number, (one, other) in enumerate(zip(by_planes, whole, strict=True)):
        assert not np.array_equal(one[0], other[0])
        assert reference.compare(number, served(one))[1]
        assert reference.compare(number, served(other))[1]
        assert not reference.compare(number, served((one[0] + (one[0] - other[0]),)))[1], "a third way"
        assert not reference.compare((number + 1) % 3, served(other))[1]
