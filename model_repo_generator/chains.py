"""Ensembles within a GPU class: a pipeline whose stages share a server can be called as one model.

Rules
- A chain takes one worker of each stage, all on one server. On each server every worker is in at least one
  chain, and there are as many as the largest stage has workers there: all combinations would be hundreds.
- Where stages of a pipeline share a GPU, workers of that GPU are chained first, and what passes between them
  stays there. Plans of this package never place them so (planner.placing); edited ones may.
- Each stage must answer with its own outputs and leave the passing on to Triton; request parameters, and so a
  ticket, reach every step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from ensembles.graphs import EnsembleGraph, StepModel, chain_graph
from model_repo_generator import naming
from planner.cluster import Cluster, Executor
from planner.manifest import RAGGED_INPUT, SHARED_INPUT, STATUS_OUTPUT, Chain, ModelEntry, StageProgram
from planner.places import Place, StageBlocks
from planner.plan import Plan
from planner.profile import TensorSpec
from planner.serving import ServedModel, ServedPipeline, WorkerPlace

Tensors = tuple[TensorSpec, ...]
Numbers = tuple[int, ...]
GpuIds = Mapping[tuple[int, int, int], int]
"""GPU id of each worker of a model that computes on one, by pipeline, stage and worker."""
ChainName = Callable[[str, int, Numbers], str]
"""The name of the ensemble of a model's pipeline on workers of these numbers, one per stage."""


def numbered_name(model: str, pipeline: int, numbers: Numbers) -> str:
    """Where workers are at no planned places."""
    return f"{model}.p{pipeline}.w{'-'.join(map(str, numbers))}"


def placed_name(places: Mapping[WorkerPlace, tuple[StageBlocks, Place]]) -> ChainName:
    """After the places of a model's workers."""
    return lambda model, pipeline, numbers: naming.chain(
        model, [places[WorkerPlace(pipeline, stage, number)] for stage, number in enumerate(numbers)]
    )


def chains_of(
    served: ServedModel, name_of: ChainName = numbered_name, seats: GpuIds = MappingProxyType({})
) -> tuple[Chain, ...]:
    """Of all pipelines of at least two stages on one GPU class."""
    return tuple(
        Chain(
            name=name_of(served.model, index, numbers),
            pipeline=index,
            server=server,
            workers=tuple(
                stage.workers[number].name for stage, number in zip(pipeline.stages, numbers, strict=True)
            ),
            gpu_id=_shared(index, numbers, seats),
        )
        for index, pipeline in enumerate(served.pipelines)
        for server, numbers in _combinations(index, pipeline, seats)
    )


def seats_of(model: str, plan: Plan, cluster: Cluster) -> GpuIds:
    """Of the model's workers on classes with executor cuda."""
    assert plan.placement is not None
    pipelines = plan.model(model).pipelines
    return {
        (seat.pipeline, seat.stage, seat.worker): seat.gpu_id
        for seat in plan.placement.workers
        if seat.model == model
        and cluster.gpu_class(pipelines[seat.pipeline].stages[seat.stage].gpu).executor is Executor.CUDA
    }


def fed_on_device(chains: Iterable[Chain]) -> frozenset[str]:
    """The workers whose inputs may come from the stage before on the same GPU."""
    return frozenset(worker for chain in chains if chain.gpu_id is not None for worker in chain.workers[1:])


def chain_names(chains: Sequence[Chain]) -> Mapping[str, tuple[str, ...]]:
    """Per server."""
    names: dict[str, tuple[str, ...]] = {}
    for chain in chains:
        names[chain.server] = (*names.get(chain.server, ()), chain.name)
    return names


def graph_of(chain: Chain, entry: ModelEntry) -> EnsembleGraph:
    """The ensemble of a chain."""
    programs: tuple[StageProgram, ...] = entry.programs[chain.pipeline]
    stages = [
        StepModel(name=worker, inputs=program.inputs, outputs=program.outputs)
        for worker, program in zip(chain.workers, programs, strict=True)
    ]
    stages[-1] = replace(stages[-1], outputs=entry.outputs)
    beside: tuple[TensorSpec, ...] = ()
    if entry.prepare is not None:
        beside = (STATUS_OUTPUT,)
        stages[0] = replace(stages[0], inputs=RAGGED_INPUT)
    largest = min(program.max_batch_size for program in programs)
    return chain_graph(chain.name, stages, entry.outputs, largest, beside)


def _combinations(index: int, pipeline: ServedPipeline, seats: GpuIds) -> Iterator[tuple[str, Numbers]]:
    """(server, one worker's number per stage); every worker of a GPU that has all stages is in one there."""
    if len(pipeline.stages) < 2 or len({stage.gpu for stage in pipeline.stages}) > 1:
        return
    for server in dict.fromkeys(worker.server for worker in pipeline.stages[0].workers):
        numbers = [
            [number for number, worker in enumerate(stage.workers) if worker.server == server]
            for stage in pipeline.stages
        ]
        found = dict.fromkeys(_turns_on_gpus(index, numbers, seats))
        chained = {(stage, number) for turn in found for stage, number in enumerate(turn)}
        others = (turn for turn in _turns(numbers) if not chained.issuperset(enumerate(turn)))
        for turn in found | dict.fromkeys(others):
            yield server, turn


def _turns_on_gpus(index: int, numbers: Sequence[Sequence[int]], seats: GpuIds) -> Iterator[Numbers]:
    """Of each GPU that has all stages."""
    gpus = {gpu for number in numbers[0] if (gpu := seats.get((index, 0, number))) is not None}
    for gpu in sorted(gpus):
        yield from _turns(
            [
                [number for number in each if seats.get((index, stage, number)) == gpu]
                for stage, each in enumerate(numbers)
            ]
        )


def _turns(numbers: Sequence[Sequence[int]]) -> Iterator[Numbers]:
    """Combinations in which each number of every stage occurs; none if a stage has none."""
    if all(numbers):
        for turn in range(max(len(each) for each in numbers)):
            yield tuple(each[turn % len(each)] for each in numbers)


def _shared(index: int, numbers: Numbers, seats: GpuIds) -> int | None:
    """The GPU that all have in common."""
    gpus = {seats.get((index, stage, number)) for stage, number in enumerate(numbers)}
    return gpus.pop() if len(gpus) == 1 else None


def stage_tensors(entry: ModelEntry, program: StageProgram) -> tuple[Tensors, Tensors]:
    """(inputs, outputs) of a stage's workers.

    A stage answers with the model's outputs when it forwards, else with its own; a tensor may be both.
    """
    outputs = merge_outputs(entry.outputs, program.outputs)
    if entry.prepare is not None and any(program is programs[0] for programs in entry.programs):
        return RAGGED_INPUT, (*outputs, STATUS_OUTPUT)
    return (*program.inputs, SHARED_INPUT), outputs


def merge_outputs(final: Sequence[TensorSpec], own: Sequence[TensorSpec]) -> Tensors:
    """Both, each name once."""
    names = {tensor.name for tensor in final}
    return (*final, *(tensor for tensor in own if tensor.name not in names))
