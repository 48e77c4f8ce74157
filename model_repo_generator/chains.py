"""Ensembles within a GPU class: a pipeline whose stages share a server can be called as one model.

Rules
- A chain takes one worker of each stage, all on one server. On each server every worker is in at least one
  chain, and there are as many as the largest stage has workers there: all combinations would be hundreds.
- Each stage must answer with its own outputs and leave the passing on to Triton; request parameters, and so a
  ticket, reach every step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ensembles.graphs import EnsembleGraph, StepModel, chain_graph
from model_repo_generator import naming
from planner.manifest import Chain, ModelEntry, StageProgram
from planner.serving import ServedModel, ServedPipeline


def chains_of(served: ServedModel, epoch: int) -> tuple[Chain, ...]:
    """Of all pipelines of at least two stages on one GPU class."""
    return tuple(
        Chain(
            name=naming.chain(served.model, index, numbers, epoch),
            pipeline=index,
            server=server,
            workers=tuple(
                stage.workers[number].name for stage, number in zip(pipeline.stages, numbers, strict=True)
            ),
        )
        for index, pipeline in enumerate(served.pipelines)
        for server, numbers in _combinations(pipeline)
    )


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
    return chain_graph(chain.name, stages, entry.outputs, min(program.max_batch_size for program in programs))


def _combinations(pipeline: ServedPipeline) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(server, one worker's number per stage)."""
    if len(pipeline.stages) < 2 or len({stage.gpu for stage in pipeline.stages}) > 1:
        return
    servers = dict.fromkeys(worker.server for worker in pipeline.stages[0].workers)
    for server in servers:
        numbers = [
            [number for number, worker in enumerate(stage.workers) if worker.server == server]
            for stage in pipeline.stages
        ]
        if all(numbers):
            for turn in range(max(len(each) for each in numbers)):
                yield server, tuple(each[turn % len(each)] for each in numbers)
