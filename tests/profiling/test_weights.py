"""Weights as people save them: what is taken, and what is said of the rest."""

from __future__ import annotations

import argparse

import pytest
import torch

from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.loading import load_network, load_with_remarks
from tests.profiling import wild_nets


@pytest.fixture(scope="module")
def right():
    torch.manual_seed(5)
    return wild_nets.Small().eval().state_dict()


def prefixed(state, prefix):
    return {prefix + name: value for name, value in state.items()}


SAVED = {
    "as it is": (lambda state: state, ""),
    "DataParallel": (lambda state: prefixed(state, "module."), "without the prefix 'module.'"),
    "torch.compile": (lambda state: prefixed(state, "_orig_mod."), "without the prefix '_orig_mod.'"),
    "both": (lambda state: prefixed(state, "module._orig_mod."), "without the prefix 'module._orig_mod.'"),
    "a checkpoint": (lambda state: {"epoch": 3, "state_dict": state, "optimizer": {}}, "under 'state_dict'"),
    "Lightning": (
        lambda state: {"state_dict": prefixed(state, "model."), "hyper_parameters": {}},
        "under 'state_dict', without the prefix 'model.'",
    ),
    "with arguments": (
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1)},
        "under 'model'",
    ),
    "two that are equal": (lambda state: {"model": state, "ema": dict(state)}, "under 'model'"),
    "deep": (lambda state: {"checkpoint": {"model": state}}, "under 'checkpoint.model'"),
    "before counts of batches": (
        lambda state: {name: value for name, value in state.items() if "num_batches" not in name},
        "",
    ),
}


@pytest.mark.parametrize("how", SAVED)
def test_taken(spec, tmp_path, right, how):
    path = tmp_path / "weights.pt"
    save, said = SAVED[how]
    torch.save(save(right), path)
    loaded = load_with_remarks(spec(wild_nets.Small, state_dict=path))
    assert all(
        torch.equal(value, right[name])
        for name, value in loaded.module.state_dict().items()
        if "num_batches" not in name
    )
    assert loaded.remarks == ((f"weights: taken {said}",) if said else ())


def test_a_wrapper_around_what_was_saved(spec, tmp_path, right):
    path = tmp_path / "weights.pt"
    torch.save(right, path)
    loaded = load_with_remarks(spec(wild_nets.Wrapping, state_dict=path))
    assert torch.equal(loaded.module.model.conv.weight, right["conv.weight"])
    assert loaded.remarks == ("weights: taken with the prefix 'model.'",)


def test_refused(spec, tmp_path, right):
    path = tmp_path / "weights.pt"

    def refusal(saved):
        torch.save(saved, path)
        with pytest.raises(ModelError) as error:
            load_network(spec(wild_nets.Small, state_dict=path))
        assert "\n" not in str(error.value)
        return str(error.value)

    other = {name: value + 1 for name, value in right.items()}
    assert "fit and differ, at 'model' and 'ema'" in refusal({"model": right, "ema": other})
    extra = {**prefixed(right, "model."), "loss.weight": torch.zeros(1)}
    assert "under 'state_dict'" in refusal({"state_dict": extra})
    assert "loss.weight" in refusal({"state_dict": extra})
    assert "holds an object of tests.profiling.wild_nets.Small" in refusal(wild_nets.Small())
    assert "keys: 8 missing" in refusal({"epoch": 3})


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_torchscript_archive_is_named(spec, tmp_path):
    path = tmp_path / "net.pt"
    torch.jit.save(wild_nets.scripted(), str(path))
    with pytest.raises(ModelError, match=r"a TorchScript archive.*torch\.save\(network\."):
        load_network(spec(wild_nets.Small, state_dict=path))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("scripted", r"returned a TorchScript module, which torch\.export does not take: return the torch"),
        ("parallel", r"returned a DataParallel: return the network inside of it, its \.module"),
        ("compiled", r"returned a OptimizedModule: return the network inside of it, its \._orig_mod"),
    ],
)
def test_wrappers_as_factories(spec, factory, message):
    with pytest.raises(ModelError, match=message):
        load_network(spec(f"tests.profiling.wild_nets:{factory}"))


def test_without_weights_at_hand_an_estimate_takes_random_ones(spec, tmp_path):
    wanted = spec(wild_nets.Small, state_dict=tmp_path / "elsewhere.pt")
    with pytest.raises(ModelError, match="No such file"):
        load_with_remarks(wanted)
    (remark,) = load_with_remarks(wanted, without_weights=True).remarks
    assert "is not here; with random ones" in remark
