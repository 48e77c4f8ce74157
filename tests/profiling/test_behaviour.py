"""Networks that cannot be served frame by frame are refused, with the line and what to write instead."""

from __future__ import annotations

import inspect

import pytest
import torch

from planner.profile import TensorSpec
from planner.profiling.networks.behaviour import observe
from planner.profiling.networks.checked import checked_program
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.loading import load_network
from planner.profiling.smaller import MOST_GFLOP_TO_RUN, smaller_frames
from tests.profiling import nets, wild_nets
from tests.profiling.staged import stages_of


def line_in(network, text):
    """'wild_nets.py:N', N being the line of the network's code that has `text`."""
    lines, first = inspect.getsourcelines(network)
    (found,) = [first + index for index, line in enumerate(lines) if text in line]
    return f"{network.__module__.rpartition('.')[2]}.py:{found} in "


@pytest.mark.parametrize(
    ("network", "text", "advised"),
    [
        (wild_nets.Squeeze, ".squeeze()", r"flatten\(1\)"),
        (wild_nets.SqueezeOfNumbers, ".squeeze()", r"squeeze\(\(2, 3\)\)"),
        (wild_nets.SqueezeThenStack, "keepdim=True).squeeze()", r"flatten\(1\)"),
        (wild_nets.ViewOfRows, "x.view(-1)", "keep the batch in front"),
        (wild_nets.Branch, "* 2", "without a branch on the batch size|depends on how many"),
        (wild_nets.BranchOnMany, "x.shape[0] < 3", "without a branch on the batch size|depends on how many"),
        (wild_nets.LoopOverFrames, "range(x.shape[0])", "for the whole batch"),
        (wild_nets.NumberOfFrames, "int(x.shape[0])", r"int\(x\.shape\[0\]\)"),
        (wild_nets.DividedByFrames, "/ x.shape[0]", "depends on how many frames"),
    ],
)
def test_what_depends_on_how_many_frames_there_are(spec, network, text, advised):
    with pytest.raises(ModelError, match=advised) as error:
        checked_program(spec(network))
    assert line_in(network, text) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("network", "text", "advised"),
    [
        (wild_nets.NormOfBatch, "self.norm(x)", "track_running_stats=True"),
        (wild_nets.ScaledByBatch, "x.max()", "the dimensions that are not the batch"),
        (wild_nets.LessMeanOfBatch, "x.mean(0)", "the dimensions that are not the batch"),
        (wild_nets.RankOfBatch, "argsort(0)", "dim=0 is the batch"),
        (wild_nets.SoftmaxOfBatch, "softmax(0)", "dim=0 is the batch"),
        (wild_nets.TurnedRound, "flip(0)", "that frame alone"),
        (wild_nets.LessFirstFrame, "x[:1]", "depends on that frame alone"),
        (wild_nets.LessLastFrame, "x[-1:]", "depends on that frame alone"),
        (wild_nets.AttentionOverBatch, "self.attention(x", "depends on that frame alone"),
    ],
)
def test_what_depends_on_the_frames_beside_it(spec, network, text, advised):
    with pytest.raises(ModelError, match=advised) as error:
        checked_program(spec(network))
    assert line_in(network, text) in str(error.value)
    assert "batch_sizes: [1]" in str(error.value)
    checked_program(spec(network).model_copy(update={"batch_sizes": (1,)}))


@pytest.mark.parametrize(
    ("network", "text", "advised"),
    [
        (wild_nets.DropoutAlive, "F.dropout", r"F\.dropout\(x, p, self\.training\)"),
        (wild_nets.Noise, "torch.randn", r"if self\.training"),
    ],
)
def test_what_differs_each_time(spec, network, text, advised):
    with pytest.raises(ModelError, match=advised) as error:
        checked_program(spec(network))
    assert line_in(network, text) in str(error.value)


@pytest.mark.parametrize("seed", range(150))
def test_what_is_answered_twice_alike_by_chance_is_still_found(seed):
    """Of eight numbers dropout leaves the same in one of 80 pairs of runs."""
    image = TensorSpec(name="image", dtype="FP32", shape=(3, 8, 8))
    torch.manual_seed(seed)
    with pytest.raises(ModelError, match="differently each time: dropout at"):
        observe(wild_nets.DropoutAlive().eval(), (image,), "model net")


def test_a_saved_program_is_asked_too(spec, tmp_path):
    path = tmp_path / "net.pt2"
    batch = torch.export.Dim("batch", min=1, max=64)
    example = torch.rand(2, 3, 8, 8)
    program = torch.export.export(wild_nets.ScaledByBatch().eval(), (example,), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    with pytest.raises(ModelError, match="depends on the frames beside it"):
        checked_program(spec("", pt2=path))


@pytest.mark.parametrize("network", [*nets.SPLITTABLE, nets.Masked, nets.Gated, nets.Mixed, nets.Norms])
def test_networks_that_serve_frame_by_frame_pass(spec, network):
    assert checked_program(spec(network)).remarks == ()


@pytest.mark.parametrize(
    "network", [wild_nets.DropPath, wild_nets.NumpyConstants, wild_nets.AutocastOfDevice]
)
def test_what_reads_values_while_it_is_built_passes(spec, network):
    checked_program(spec(network))


def large(spec, **arguments):
    return spec(wild_nets.Large, shape=(3, 640, 640), arguments=arguments)


@pytest.mark.parametrize(
    ("end", "line", "says"),
    [
        ("squeeze", "x.squeeze()", r"squeeze .*flatten\(1\)"),
        ("mixes", "x - x.mean(0)", "depends on the frames beside it"),
        ("branches", "x * 2", "depends on how many frames"),
    ],
)
def test_a_network_too_large_to_run_is_asked_with_smaller_frames(spec, end, line, says):
    with pytest.raises(ModelError, match=says) as caught:
        checked_program(large(spec, end=end), without_weights=True)
    assert line_in(wild_nets.Large, line) in str(caught.value)


def test_a_large_network_is_told_with_the_frames_that_it_was_asked_with(spec):
    found = checked_program(large(spec), without_weights=True)
    assert found.remarks == (
        "31 GFLOP a frame: that it serves frame by frame was seen with frames of [3, 128, 128]",
    )
    assert next(iter(found.program.graph.nodes)).meta["val"].is_meta, "its own frames, and no weights"


def test_a_large_network_of_one_size_shows_its_shapes(spec):
    (remark,) = checked_program(large(spec, sides=320), without_weights=True).remarks
    assert "it takes no smaller ones, so only the shapes of its answers were checked" in remark
    with pytest.raises(ModelError, match="output of one frame is"):
        checked_program(large(spec, end="squeeze", sides=320), without_weights=True)


@pytest.mark.parametrize(
    ("shape", "gflop"), [((3, 640, 640), 224), ((512, 1024, 3), 300), ((3, 30, 600), 20), ((9,), 50)]
)
def test_smaller_frames_keep_all_but_the_sides_of_pictures(shape, gflop):
    beside = TensorSpec(name="size", dtype="INT64", shape=(2,))
    own = (TensorSpec(name="image", dtype="FP32", shape=shape), beside)
    offered = list(smaller_frames(own, gflop))
    assert bool(offered) == (len(shape) == 3)
    for (image, other), most in offered:
        assert other == beside
        channels = 0 if shape[0] == 3 else 2
        assert image.shape[channels] == 3
        assert all(0 < small <= side for small, side in zip(image.shape, shape, strict=True))
        assert most <= MOST_GFLOP_TO_RUN


@pytest.mark.parametrize(
    "network",
    [wild_nets.Recurrent, wild_nets.Einsum, wild_nets.Encoder, wild_nets.WeightsThroughOperators],
)
def test_stages_answer_as_the_network(spec, network):
    wanted = spec(network)
    split, runs = stages_of(wanted)
    assert split.block_count > 1
    for batch in (1, 2, 4, 5):
        frames = torch.rand(batch, 3, 8, 8, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            right = load_network(wanted)(frames)
        for run in runs:
            torch.testing.assert_close(run(frames)[0], right, atol=1e-5, rtol=1e-4)
