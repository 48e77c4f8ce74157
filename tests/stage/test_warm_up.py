"""No batch size is run for the first time under load."""

from collections.abc import Sequence

import pytest

from planner.cluster import Executor
from planner.manifest import StageProgram
from planner.profile import TensorSpec
from python_backend.stage.executors.torch_program import TorchExecutor
from python_backend.wire.kserve import Array


class Recorder(TorchExecutor):
    """Without a program: notes the batch sizes that it is asked to run."""

    def __init__(self, max_batch_size: int) -> None:
        tensor = TensorSpec(name="x", dtype="FP32", shape=(2,))
        self._program = StageProgram(
            program="",
            program_sha256="",
            inputs=(tensor,),
            outputs=(tensor,),
            executor=Executor.CPU,
            max_batch_size=max_batch_size,
        )
        self._recipe = None
        self.sizes: list[int] = []

    def run(self, inputs: Sequence[Array]) -> list[Array]:
        self.sizes.append(len(inputs[0]))
        return list(inputs)


@pytest.mark.parametrize(
    ("largest", "sizes"), [(1, [1]), (5, [5, 4, 3, 2, 1]), (48, [48, 32, 16, 8, 4, 2, 1])]
)
def test_every_batch_size_is_warmed_up_largest_first(largest: int, sizes: list[int]) -> None:
    executor = Recorder(largest)
    executor.warm_up()
    assert executor.sizes == sizes
