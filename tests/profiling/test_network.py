"""Loading networks: seeded weights, state_dicts, saved programs, and what is said when something is wrong."""

from __future__ import annotations

import pytest
import torch

from planner.profiling.networks.checked import export_model
from planner.profiling.networks.errors import ModelError
from planner.profiling.networks.export import example_batch, export_network
from planner.profiling.networks.loading import load_network
from tests.profiling import nets


def test_same_seed_same_weights_other_seed_others(spec):
    first, again, other = (load_network(spec(nets.Chain, seed=seed)).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_loading_leaves_the_callers_random_state_alone(spec):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    load_network(spec(nets.Chain))
    assert torch.equal(torch.rand(1), expected)


def test_arguments_reach_the_factory_and_the_network_is_in_eval_mode(spec):
    network = load_network(spec(nets.Chain, arguments={"depth": 2}))
    assert len(network.layers) == 3
    assert not network.training


def test_state_dict_file(spec, tmp_path):
    path = tmp_path / "weights.pt"
    wanted = nets.Chain().state_dict()
    torch.save(wanted, path)
    loaded = load_network(spec(nets.Chain, state_dict=path)).state_dict()
    assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("no_such_module:thing", {}, "model net: program.factory: no module named 'no_such_module'"),
        ("tests.profiling.nets:Missing", {}, "module tests.profiling.nets has no attribute 'Missing'"),
        ("tests.profiling.nets:CHANNELS", {}, "something not callable as 'CHANNELS'"),
        ("tests.profiling.nets:not_a_module", {}, "returned a int; expected a torch.nn.Module"),
        ("tests.profiling.nets:failing", {"size": 7}, r"failing\(size=7\) failed: RuntimeError: cannot make"),
        ("tests.profiling.nets:Chain", {"width": 7}, "unexpected keyword argument 'width'"),
    ],
)
def test_bad_factories(spec, factory, arguments, message):
    with pytest.raises(ModelError, match=message):
        load_network(spec(factory, arguments=arguments))


def test_bad_state_dicts(spec, tmp_path):
    path = tmp_path / "weights.pt"
    with pytest.raises(ModelError, match=r"weights\.pt: No such file"):
        load_network(spec(nets.Chain, state_dict=path))
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match="not a file of tensors"):
        load_network(spec(nets.Chain, state_dict=path))
    torch.save([1, 2], path)
    with pytest.raises(ModelError, match="holds a list; expected a dict"):
        load_network(spec(nets.Chain, state_dict=path))
    torch.save(nets.LongSkip().state_dict(), path)
    with pytest.raises(
        ModelError, match=r"keys: 8 missing \(layers\.0\.weight.*\); \d+ unknown \(first\.weight"
    ):
        load_network(spec(nets.Chain, state_dict=path))
    state = nets.Chain().state_dict()
    state["layers.0.weight"] = torch.zeros(1)
    torch.save(state, path)
    with pytest.raises(ModelError, match=r"does not fit: .*size mismatch for layers\.0\.weight"):
        load_network(spec(nets.Chain, state_dict=path))


def test_saved_program_gives_the_same_outputs(spec, tmp_path):
    from_factory = spec(nets.LongSkip)
    path = tmp_path / "net.pt2"
    frame = example_frame()
    torch.export.save(export_network(load_network(from_factory), (frame,), "net"), path)
    x = torch.rand(3, 3, 8, 8)
    expected = load_network(from_factory)(x)
    (actual,) = (export_model(spec("", pt2=path)).module()(x),)
    assert torch.allclose(actual, expected, atol=1e-5)


def test_saved_programs_that_do_not_fit(spec, tmp_path):
    path = tmp_path / "net.pt2"
    with pytest.raises(ModelError, match="no such file"):
        export_model(spec("", pt2=path))
    path.write_bytes(b"nonsense")
    with pytest.raises(ModelError, match=r"not a program saved by torch\.export\.save"):
        export_model(spec("", pt2=path))
    fixed = torch.export.export(nets.Chain().eval(), (example_batch(example_frame(), 2),))
    torch.export.save(fixed, path)
    with pytest.raises(ModelError, match=r"the batch dimension \(dimension 0 of input image\) is fixed at 2"):
        export_model(spec("", pt2=path))
    torch.export.save(export_network(nets.Chain().eval(), (example_frame(),), "net"), path)
    with pytest.raises(ModelError, match=r"\[batch, 3, 8, 8\] in the program and \[batch, 3, 9, 9\] in the"):
        export_model(spec("", pt2=path, shape=(3, 9, 9)))


def test_data_dependent_control_flow_names_the_line(spec, capfd):
    with pytest.raises(
        ModelError, match=r"rejects it at .*nets\.py:\d+ in forward \(`if x\.sum\(\) > 0:"
    ) as error:
        export_model(spec(nets.DataDependent))
    assert "torch.where or torch.cond" in str(error.value)
    assert capfd.readouterr() == ("", "")  # torch prints the graph


def test_a_model_without_batch_dimension(spec):
    with pytest.raises(ModelError, match="dimension 0 of its input must be the batch"):
        export_model(spec(nets.NoBatch))


def test_a_model_that_changes_itself(spec):
    with pytest.raises(ModelError, match="writes to calls while it runs"):
        export_model(spec(nets.Counting))


def test_an_input_that_the_model_cannot_take(spec):
    with pytest.raises(
        ModelError, match=r"does not run on input image FP32 \[batch, 5, 8, 8\] at .*: Runtime"
    ):
        export_model(spec(nets.Chain, shape=(5, 8, 8)))


def example_frame():
    from planner.profile import TensorSpec

    return TensorSpec(name="image", dtype="FP32", shape=(3, 8, 8))
