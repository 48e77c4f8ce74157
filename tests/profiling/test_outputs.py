"""What networks return: names that Triton takes, values that are right at every cut, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch.utils import _pytree as pytree

from planner.profiling.networks.checked import checked_program
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.loading import load_network
from tests.profiling import wild_nets
from tests.profiling.staged import stages_of

TAKEN = {
    "hub": ("logits", "hidden_0", "hidden_1"),
    "known": ("logits", "features"),
    "named": ("logits", "features"),
    "nested": ("boxes_0", "boxes_1", "extra_score"),
    "none": ("output_0", "output_2"),
    "number": ("output",),
    "squeezed": ("output",),
    "best": ("output_0", "output_1_0", "output_1_1"),
    "across": ("output",),
    "twice": ("logits", "out"),
    "input": ("logits", "image_back"),
    "input_name": ("output_image",),
    "half": ("output",),
    "everything": ("hub_logits", "hub_hidden_0", "image_back", "score", "again", "half", "best"),
    "mask": ("output_0", "output_1"),
}


@pytest.mark.parametrize("what", TAKEN)
def test_taken(spec, what):
    wanted = spec(wild_nets.Returns, arguments={"what": what})
    split, runs = stages_of(wanted)
    assert len(runs) > 1
    assert [output.name for output in split.outputs] == list(TAKEN[what])
    assert all(output.shape for output in split.outputs)
    for batch in (1, 3):
        frames = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            right = [leaf for leaf in pytree.tree_leaves(load_network(wanted)(frames)) if leaf is not None]
        for run in runs:
            for given, value, declared in zip(run(frames), right, split.outputs, strict=True):
                assert tuple(given.shape) == (batch, *declared.shape)
                torch.testing.assert_close(
                    given.reshape(value.shape), value, check_dtype=False, atol=1e-5, rtol=1e-4
                )


def test_one_number_per_frame_travels_as_one_and_bfloat16_as_fp32(spec):
    split, _ = stages_of(spec(wild_nets.Returns, arguments={"what": "number"}))
    assert [(each.dtype, each.shape) for each in split.outputs] == [("FP32", (1,))]
    split, _ = stages_of(spec(wild_nets.Returns, arguments={"what": "half"}))
    assert [(each.dtype, each.shape) for each in split.outputs] == [("FP32", (5,))]


def test_the_best_class_is_a_number_per_frame(spec):
    split, _ = stages_of(spec(wild_nets.Returns, arguments={"what": "best"}))
    assert [(each.dtype, each.shape) for each in split.outputs] == [
        ("INT64", (1,)),
        ("FP32", (1,)),
        ("INT64", (1,)),
    ]


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("anchors", r"output output_1 \[6, 4\] is the same for every frame: leave it out"),
        ("anchors_of_one", r"output output_1 \[1, 6, 4\] is the same for every frame: leave it out"),
        (
            "unknown",
            r"a tests\.profiling\.wild_nets\.Unknown, a dataclass that torch does not know: call torch\.",
        ),
        (
            "bag",
            r"is a tests\.profiling\.wild_nets\.Bag, which torch does not know: return a tuple or a dict",
        ),
        ("text", "output name is the str 'net', no tensor: leave it out"),
        ("shape", "output output_1 is the int 1, no tensor: leave it out"),
        ("same_names", "outputs 'a b' and 'a-b' would both be called a_b in Triton"),
        ("nothing", "forward returns no tensor"),
        ("mean_of_batch", r"its first dimension must be the batch: mean at .*wild_nets\.py"),
        ("complex", r"output output .*must be a tensor .* of one of BOOL, INT8"),
        ("dynamic", "must be a tensor whose first dimension is the batch"),
    ],
)
def test_refused(spec, what, message):
    with pytest.raises(ModelError, match=message) as error:
        stages_of(spec(wild_nets.Returns, arguments={"what": what}))
    assert "\n" not in str(error.value)


def test_a_saved_program_has_the_same_names(spec, tmp_path):
    path = tmp_path / "net.pt2"
    for what in ("hub", "known", "nested"):
        network = load_network(spec(wild_nets.Returns, arguments={"what": what}))
        batch = torch.export.Dim("batch", min=1, max=64)
        program = torch.export.export(network, (torch.rand(2, 3, 8, 8),), dynamic_shapes=({0: batch},))
        torch.export.save(program, path)
        checked_program(spec("", pt2=path))
        split, _ = stages_of(spec("", pt2=path))
        assert [output.name for output in split.outputs] == list(TAKEN[what])
