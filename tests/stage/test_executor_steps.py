"""The steps that prepare a program: numbers and layout, graphs, staging, memory, compilers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from planner.cluster import Executor
from planner.execution import CONTEXT_BYTES, Compiler, ExecutorOptions, Precision
from planner.manifest import StageProgram
from planner.plan import BlockRange
from planner.profile import TensorSpec
from planner.profiling.split import split_model
from planner.profiling.stages import save_stage, stage_module
from python_backend.stage.executors import compiling
from python_backend.stage.executors.cuda_graphs import Graphed
from python_backend.stage.executors.errors import ProgramError
from python_backend.stage.executors.float32 import float32, set_float32
from python_backend.stage.executors.folding import fold_batch_norms
from python_backend.stage.executors.gpu_memory import allocator_fraction
from python_backend.stage.executors.program_file import warm_sizes
from python_backend.stage.executors.runner import build_run
from python_backend.stage.executors.staging import DirectStaging, PinnedStaging
from python_backend.stage.executors.task import Run, Task, Tensors
from python_backend.stage.executors.torch_program import TorchExecutor
from tests.profiling import nets

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


def split_of(net: type[nn.Module]):
    from planner.deployment import ModelSpec, ProgramSpec, TensorSpecModel

    return split_model(
        ModelSpec(
            name="net",
            program=ProgramSpec(factory=f"tests.profiling.nets:{net.__name__}"),
            input=TensorSpecModel(name="image", shape=(3, 8, 8)),
            slo_ms=1000,
        )
    )


def prepared(net: type[nn.Module], device: torch.device = CPU, **options) -> tuple[Run, Run]:
    """(the whole network as it is, the same prepared with these options)."""
    split = split_of(net)
    whole = BlockRange(0, split.block_count)
    task = Task(
        options=ExecutorOptions(**options),
        device=device,
        inputs=split.inputs_of(whole),
        outputs=split.outputs_of(whole),
        largest_batch=4,
    )
    plain = stage_module(split, whole).to(device)
    return lambda inputs: plain(*inputs), build_run(stage_module(split, whole), task)


def frames(batch: int, device: torch.device = CPU) -> Tensors:
    return (torch.rand((batch, 3, 8, 8), generator=torch.Generator().manual_seed(batch)).to(device),)


def largest_error(got: Tensors, wanted: Tensors) -> float:
    assert [each.dtype for each in got] == [each.dtype for each in wanted]
    assert all(each.is_contiguous() for each in got)
    return max(
        float((one - other).abs().max() / (other.max() - other.min()))
        for one, other in zip(got, wanted, strict=True)
    )


@pytest.fixture(autouse=True)
def _float32_as_before():
    with float32(Precision.TF32):
        yield


@pytest.mark.parametrize("net", [nets.BatchArithmetic, nets.Attention, nets.TwoOutputs])
@pytest.mark.parametrize(("precision", "limit"), [(Precision.BF16, 2e-2), (Precision.FP16, 2e-3)])
def test_half_precision_keeps_the_declared_types_and_stays_near(net, precision, limit):
    plain, half = prepared(net, precision=precision)
    with torch.inference_mode():
        for batch in (1, 3):
            error = largest_error(half(frames(batch)), plain(frames(batch)))
            assert 0 < error < limit


@pytest.mark.parametrize("precision", list(Precision))
def test_a_network_of_mixed_types_runs_block_by_block_in_any_precision(precision):
    split = split_of(nets.Mixed)
    values = exact = frames(2)
    with torch.inference_mode():
        for index in range(split.block_count):
            blocks = BlockRange(index, index + 1)
            task = Task(
                ExecutorOptions(precision=precision),
                CPU,
                split.inputs_of(blocks),
                split.outputs_of(blocks),
                2,
            )
            with torch.inference_mode(False):
                run = build_run(stage_module(split, blocks), task)
            values = run(values)
            exact = stage_module(split, blocks)(*exact)
            assert largest_error(values, exact) < 3e-2


@pytest.mark.parametrize("channels_last", [True, False])
def test_layout_changes_how_weights_lie_and_not_the_answer(channels_last):
    split = split_of(nets.LongSkip)
    whole = BlockRange(0, split.block_count)
    module = stage_module(split, whole)
    options = ExecutorOptions(channels_last=channels_last)
    task = Task(options, CPU, split.inputs_of(whole), split.outputs_of(whole), largest_batch=2)
    run = build_run(module, task)
    kernels = [weight for weight in module.parameters() if weight.dim() == 4 and weight.shape[1] > 1]
    lie = [weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels]
    assert lie == [channels_last] * len(kernels)
    with torch.inference_mode():
        assert largest_error(run(frames(2)), stage_module(split, whole)(*frames(2))) < 1e-5


def test_norms_are_folded_where_that_is_exact_and_their_weights_go():
    split = split_of(nets.Norms)
    whole = BlockRange(0, split.block_count)
    plain, module = stage_module(split, whole), stage_module(split, whole)
    assert fold_batch_norms(module) == 3
    module.recompile()
    left = [node for node in module.graph.nodes if "batch_norm" in str(node.target)]
    assert len(left) == 2, "one whose convolution is read twice, and one after no convolution"
    numbers = [sum(weight.numel() for weight in each.state_dict().values()) for each in (module, plain)]
    assert numbers[0] < numbers[1]
    with torch.no_grad():
        assert largest_error(module(*frames(3)), plain(*frames(3))) < 1e-6


def test_tf32_is_set_and_set_back():
    set_float32(Precision.TF32)
    with float32(Precision.FP32):
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cuda.matmul.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_batches_to_warm_up():
    assert warm_sizes(5) == {1, 2, 3, 4, 5}
    assert warm_sizes(5, padded=True) == {1, 2, 4, 5}
    assert warm_sizes(48) == {1, 2, 4, 8, 16, 32, 48}


# CUDA graphs: what surrounds the capture is the same with a recorder that calls again instead


class CallsAgain:
    """Stands for torch.cuda.CUDAGraph: a replay reads the same inputs and writes the same outputs."""

    def record(self, function: Callable[[], Tensors]) -> tuple[Callable[[], None], Tensors]:
        outputs = tuple(output.clone() for output in function())

        def replay() -> None:
            for own, new in zip(outputs, function(), strict=True):
                own.copy_(new)

        return replay, outputs


def graphed(sizes: set[int], pad: bool) -> tuple[Graphed, list[int]]:
    ran: list[int] = []

    def double(inputs: Tensors) -> Tensors:
        ran.append(len(inputs[0]))
        return (2 * inputs[0],)

    return Graphed(double, CallsAgain(), sizes, pad), ran


def counted(batch: int) -> Tensors:
    return (torch.arange(batch, dtype=torch.float32).reshape(batch, 1),)


def test_each_size_has_its_own_graph_and_others_run_without_one():
    run, ran = graphed({1, 4}, pad=False)
    first = run(counted(4))
    assert first[0].ravel().tolist() == [0, 2, 4, 6]
    assert run((counted(4)[0] + 1,))[0].data_ptr() == first[0].data_ptr(), "a graph writes its own outputs"
    assert first[0].ravel().tolist() == [2, 4, 6, 8]
    assert run(counted(3))[0].ravel().tolist() == [0, 2, 4]
    assert ran == [4, 4, 4, 3], "recorded once, replayed twice, and three frames as they are"


def test_padding_runs_in_the_next_larger_graph_and_cuts_its_frames_off():
    run, ran = graphed({1, 4}, pad=True)
    assert run(counted(3))[0].ravel().tolist() == [0, 2, 4]
    assert run(counted(2))[0].ravel().tolist() == [0, 2]
    assert run(counted(5))[0].ravel().tolist() == [0, 2, 4, 6, 8]
    assert ran == [4, 4, 4, 5]


# Staging and memory


def test_staged_outputs_stay_what_they_were_while_the_next_batch_runs():
    waited: list[int] = []
    staging = PinnedStaging(
        CPU,
        allocate=lambda shape, dtype: torch.empty(shape, dtype=dtype),
        wait=lambda: waited.append(1),
    )
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    array.flags.writeable = False
    device = staging.to_device(array)
    (first,) = staging.to_host((device,))
    device.zero_()
    assert first.tolist() == array.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert waited == [1]


def test_without_a_gpu_nothing_is_copied():
    array = np.ones((2, 3), np.float32)
    assert DirectStaging(CPU).to_device(array).data_ptr() == array.ctypes.data


def test_the_allocator_gets_what_the_plan_gives_less_what_cuda_takes():
    total = 16 << 30
    assert allocator_fraction(CONTEXT_BYTES + (4 << 30), total) == pytest.approx(0.25)
    assert allocator_fraction(64 << 30, total) == 1.0
    with pytest.raises(ProgramError, match=r"0\.25 GiB of its GPU; CUDA alone needs about 0\.50"):
        allocator_fraction(1 << 28, total)


# The executor


def program_of(folder: Path, net: type[nn.Module], **options) -> tuple[StageProgram, Path]:
    split = split_of(net)
    whole = BlockRange(0, split.block_count)
    path = folder / "net.pt2"
    save_stage(split, whole, path)
    program = StageProgram(
        program=path.name,
        program_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        inputs=split.inputs_of(whole),
        outputs=split.outputs_of(whole),
        executor=Executor.CPU,
        max_batch_size=3,
        options=ExecutorOptions(**options),
    )
    return program, path


def test_a_stage_runs_with_the_manifests_options_on_arrays_and_on_tensors(tmp_path):
    program, path = program_of(tmp_path, nets.LongSkip, precision=Precision.BF16, cuda_graphs=True)
    executor = TorchExecutor(program, path, "cpu")
    executor.warm_up()
    tensor = frames(3)[0]
    (array,) = executor.run([tensor.numpy()])
    (kept,) = executor.run_on_device([tensor])
    assert array.dtype == np.float32
    assert torch.equal(torch.from_numpy(array), kept)
    split = split_of(nets.LongSkip)
    exact = stage_module(split, BlockRange(0, split.block_count))
    with torch.no_grad():
        assert 0 < largest_error((kept,), exact(tensor)) < 2e-2


def test_another_programs_file_is_refused(tmp_path):
    program, path = program_of(tmp_path, nets.Single)
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(ProgramError, match=r"net\.pt2 is not the program of this plan"):
        TorchExecutor(program, path, "cpu")


# Compilers


def test_a_missing_compiler_is_said_with_what_to_do(monkeypatch):
    def none_found() -> str:
        raise RuntimeError("no compiler")

    monkeypatch.setattr("torch._inductor.cpp_builder.get_cpp_compiler", none_found)
    with pytest.raises(ProgramError, match=r"compiler 'inductor' needs a C\+\+ compiler .* or set 'none'"):
        prepared(nets.Single, compiler=Compiler.INDUCTOR)


@pytest.fixture
def _compiler():
    try:
        compiling.require_compiler(CPU, Compiler.INDUCTOR)
    except ProgramError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("_compiler")
@pytest.mark.parametrize(
    ("compiler", "batches"), [(Compiler.INDUCTOR, (4, 2)), (Compiler.AOT_INDUCTOR, (4, 2, 1))]
)
def test_a_compiled_program_gives_the_same_answers_at_every_batch(compiler, batches):
    plain, run = prepared(nets.Pointwise, compiler=compiler)
    with torch.inference_mode():
        for batch in batches:
            assert largest_error(run(frames(batch)), plain(frames(batch))) < 1e-5


# On a GPU


@needs_gpu
@pytest.mark.parametrize("precision", list(Precision))
@pytest.mark.parametrize("pad", [True, False])
def test_graphs_on_a_gpu_give_the_answers_of_the_plain_program(precision, pad):
    cuda = torch.device("cuda")
    plain, run = prepared(nets.LongSkip, cuda, precision=precision, cuda_graphs=True, pad_to_captured=pad)
    with torch.inference_mode():
        for batch in (4, 3, 2, 1, 3):
            inputs = frames(batch, cuda)
            assert largest_error(run(inputs), plain(inputs)) < 2e-2


@needs_gpu
def test_a_gpu_stage_keeps_tensors_on_the_gpu_when_asked(tmp_path):
    program, path = program_of(tmp_path, nets.LongSkip, cuda_graphs=True)
    executor = TorchExecutor(program, path, "cuda:0")
    executor.warm_up()
    (kept,) = executor.run_on_device([frames(2)[0]])
    (array,) = executor.run([kept.new_tensor(frames(2)[0].numpy())])
    assert kept.is_cuda
    assert np.allclose(kept.cpu().numpy(), array, atol=1e-5)


def test_specs_are_named_when_torch_lacks_their_type():
    task = Task(ExecutorOptions(), CPU, (TensorSpec("x", "UINT64", (1,)),), (), 1)
    with pytest.raises(ProgramError, match="tensor x: dtype UINT64 is not one of BOOL"):
        task.zeros(1)
