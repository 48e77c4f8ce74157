"""A worker is a place: what a slice of a GPU runs. And where servers are: the two files that a stage reads.

    <Triton model of a worker>/place.json    StagePlace: what it runs and where
    addresses.json                             ServerTable: the addresses of all servers of the deployment

Rules
- Nothing here is of a plan: a place serves every plan that has it, and is not loaded anew for another one.
  What a batch needs of the rest of its way comes with its ticket.
- addresses.json has every server of the cluster, with work or without, and is read again when it changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from planner.frames import FrameCost
from planner.ingress import FinishRecipe, PrepareRecipe
from planner.manifest import STATUS_OUTPUT, EntryPorts, ServerAddress, StageProgram, TlsFiles
from planner.profile import TensorSpec

PLACE_NAME = "place.json"
ADDRESSES_NAME = "addresses.json"


@dataclass(frozen=True)
class Place:
    """Slice `slice_index` of `slices_per_gpu` equal ones of a server's GPU."""

    server: str
    gpu_id: int
    slice_index: int
    slices_per_gpu: int


@dataclass(frozen=True)
class StageBlocks:
    """Blocks [start, end) of `count` of a split: `split` is a digest of network, cuts, their type, weights
    and executor options.
    """

    split: str
    start: int
    end: int
    count: int

    @property
    def is_first(self) -> bool:
        """Whether they take what clients send."""
        return self.start == 0

    @property
    def is_last(self) -> bool:
        """Whether they give the network's outputs."""
        return self.end == self.count


@dataclass(frozen=True)
class StagePlace:
    """All that a worker must know of itself. latency_us[b - 1]: profiled, for a batch of b, on its class; the
    last b is program.max_batch_size.

    input: of the network, the one that is made of a client's frame. outputs: what a last stage answers.
    prepare: of the model; None where clients send `input`. finish: of the model, where it is a last stage.
    prepare_us, cores: of a first stage, one frame on one core, and the cores of its server; None where
    preparing is not planned.
    """

    deployment: str
    model: str
    worker: str
    blocks: StageBlocks
    place: Place
    program: StageProgram
    latency_us: tuple[int, ...]
    input: TensorSpec
    outputs: tuple[TensorSpec, ...]
    serves_late: bool
    prepare: PrepareRecipe | None = None
    prepare_us: FrameCost | None = None
    cores: int | None = None
    finish: FinishRecipe | None = None
    tls: TlsFiles | None = None
    unsigned_tickets: bool = False
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def takes_frames(self) -> bool:
        """Whether it is given what clients sent."""
        return self.prepare is not None and self.blocks.is_first

    @property
    def probe_answers(self) -> tuple[TensorSpec, ...]:
        """What a probe is answered with: all that it may have to answer, alone or in an ensemble."""
        answers = {spec.name: spec for spec in self.program.outputs}
        if self.takes_frames:
            answers[STATUS_OUTPUT.name] = STATUS_OUTPUT
        if self.blocks.is_last:
            answers |= {spec.name: spec for spec in self.outputs}
        return tuple(answers.values())


@dataclass(frozen=True)
class ServerTable:
    """Where every server of a deployment is. What servers load is not said: `models` are empty."""

    deployment: str
    entries: tuple[EntryPorts, ...]
    servers: tuple[ServerAddress, ...]

    def server(self, name: str) -> ServerAddress:
        """The server called `name`, entry servers included. Raises KeyError."""
        for server in (*(entry.server for entry in self.entries), *self.servers):
            if server.name == name:
                return server
        raise KeyError(f"no server {name!r} in the table of servers of deployment {self.deployment!r}")

    def feedback(self, entry: str, model: str) -> tuple[str, int]:
        """Where a model's dispatcher on an entry server takes notices. Raises KeyError."""
        for each in self.entries:
            if each.server.name == entry and model in each.feedback_ports:
                return each.server.host, each.feedback_ports[model]
        raise KeyError(f"no dispatcher of model {model!r} on entry server {entry!r}")
