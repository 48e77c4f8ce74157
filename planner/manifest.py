"""deployment.json: every name and address of a deployment. The generator writes it, the run time reads it.

Names are made once, in model_repo_generator.naming; nothing else derives one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from planner.addresses import authority
from planner.cascades.served import CascadeEntry
from planner.cluster import Executor
from planner.execution import ExecutorOptions
from planner.ingress import FinishRecipe, PrepareRecipe
from planner.leases import LeasesAt
from planner.profile import TensorSpec
from planner.serial import LATER
from planner.serving import ServedModel
from planner.shards import Shard

MANIFEST_NAME = "deployment.json"
SHARED_FRAMES = "ppipe_frames"
"""Input of a stage, in place of its tensors when these lie in shared memory: UINT8 [1] for each frame."""
RAGGED = "ppipe_ragged"
"""Input of a first stage that prepares: clients' frames as they came; see python_backend.wire.ragged."""
STATUS = "ppipe_status"
"""Output of such a stage: what is wrong with which frame."""
SHARED_INPUT = TensorSpec(SHARED_FRAMES, "UINT8", (1,))
RAGGED_INPUT = (TensorSpec(RAGGED, "BYTES", (1,)),)
LONGEST_SLOS = 5
"""A frame of a full queue that waits longer than a few SLOs has lost its use to most callers."""
STATUS_OUTPUT = TensorSpec(STATUS, "BYTES", (1,))


@dataclass(frozen=True)
class ServerAddress:
    """A tritonserver and the repository folder that it serves, relative to the manifest's folder."""

    name: str
    group: str
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    repository: str
    models: tuple[str, ...] = ()
    """The Triton models that this server loads; servers of one group share a repository folder."""
    gpu_count: int = 0
    """GPUs of the server, as it was planned with; 0: none, or not known."""
    devices: tuple[str, ...] = ()
    """What its CUDA_VISIBLE_DEVICES lists where `ppipe serve` starts it; empty: it computes on no GPU."""

    @property
    def grpc_address(self) -> str:
        """Host and port as gRPC clients take them."""
        return authority(self.host, self.grpc_port)

    @property
    def http_address(self) -> str:
        """Host and port as they stand in a URL."""
        return authority(self.host, self.http_port)


@dataclass(frozen=True)
class StageProgram:
    """What the workers of a stage run: blocks [first_block, past_block) of a split, joined when they load.

    program: the list of the split's programs (planner.programs), or one file that is a whole program;
    relative to the manifest's folder, '' for emulated stages. program_sha256: of that file; '' takes any.
    inputs and outputs are in the program's positional order, without the batch dimension.
    """

    program: str
    program_sha256: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    executor: Executor
    max_batch_size: int
    padded: bool = False
    """True: hold the worker until the profiled latency is over (class with a stated speed)."""
    options: ExecutorOptions = field(default_factory=ExecutorOptions)
    precision_error: float | None = None
    """Largest difference of the whole model's outputs from FP32, as a share of their range; None: not
    measured.
    """
    imports: tuple[str, ...] = ()
    """Modules that register operators of the program; imported before it is loaded."""
    memory_bytes: int | None = None
    """What the plan gives one worker of its GPU's memory; None: not modelled."""
    first_block: int = field(default=0, metadata=LATER)
    past_block: int = field(default=0, metadata=LATER)
    """Of the list's; without one both are 0."""


@dataclass(frozen=True)
class Chain:
    """A Triton ensemble on one server: a pipeline's stages on these workers, called as one model."""

    name: str
    pipeline: int
    server: str
    workers: tuple[str, ...]
    gpu_id: int | None = None
    """The GPU of the server on which all of its stages sit: what passes between them stays there. None: they
    sit on several, or on none.
    """


@dataclass(frozen=True)
class ModelEntry:
    """One model: public names, tensors, and per pipeline and stage the program that its workers run."""

    model: str
    dispatcher: str
    """The Triton model that clients call."""
    input: TensorSpec
    """Of the network: the one that is made of a client's frame, where there are several."""
    outputs: tuple[TensorSpec, ...]
    """What comes back from a last stage: the network's own, or what finishing makes of them."""
    feedback_port: int
    """UDP port of this model's dispatcher, on the entry server's host, for notices from stages."""
    late: Literal["drop", "serve"]
    served: ServedModel
    programs: tuple[tuple[StageProgram, ...], ...]
    """programs[pipeline][stage]"""
    prepare: PrepareRecipe | None = None
    """What the hosts of first stages make of clients' frames; None: clients send `input`."""
    finish: FinishRecipe | None = None
    """What the hosts of last stages make of the network's outputs; None: nothing."""
    body_ensemble: str = ""
    """The way in for plain HTTP, whose body is nothing but an encoded image: Triton takes such bodies for
    models of one input alone. '' without one.
    """
    chains: tuple[Chain, ...] = ()
    """Of pipelines whose stages share a server."""
    longest_timeout_us: int | None = None
    """The most that a request's timeout may be; None: LONGEST_SLOS SLOs."""
    shards: tuple[Shard, ...] = field(default=(), metadata=LATER)
    """Which of its workers each entry's dispatcher schedules; empty where one entry has all of them."""

    @property
    def longest_us(self) -> int:
        """How long a caller may wait; a request that asks for more gets this."""
        return self.longest_timeout_us or LONGEST_SLOS * self.served.slo_us

    @property
    def serves_late(self) -> bool:
        """Whether frames that missed their deadline are served all the same."""
        return self.late == "serve"

    @property
    def network_inputs(self) -> tuple[TensorSpec, ...]:
        """All that the network takes, in the order of its program."""
        return self.programs[0][0].inputs if self.programs else (self.input,)

    @property
    def other_inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes beside `input`; clients send it in any case."""
        return tuple(spec for spec in self.network_inputs if spec.name != self.input.name)

    @property
    def ways_in(self) -> tuple[str, ...]:
        """Of these public inputs a request has one."""
        return () if self.prepare is None else (self.prepare.frame.name, self.input.name)

    @property
    def public_inputs(self) -> tuple[TensorSpec, ...]:
        """What a client may send: dtype BYTES for encoded images, -1 for any size. Of a model that prepares,
        one of the first two, and all others.
        """
        if self.prepare is None:
            return self.network_inputs
        return (self.prepare.frame, self.input, *self.other_inputs)


@dataclass(frozen=True)
class TlsFiles:
    """PEM files, by their absolute paths, which are the same on every host: the CA that signs the hosts'
    certificates, and a host's own certificate and key. `server_name`: what all certificates are made out to,
    where that is not the host that the cluster says.
    """

    ca: str
    certificate: str
    key: str
    server_name: str = ""

    def server_flags(self) -> list[str]:
        """What a stage's tritonserver is told: only callers with a certificate of the same CA are served. Its
        HTTP port has no such check, so it belongs on loopback then.
        """
        return [
            "--grpc-use-ssl=1",
            "--grpc-use-ssl-mutual=1",
            f"--grpc-server-cert={self.certificate}",
            f"--grpc-server-key={self.key}",
            f"--grpc-root-cert={self.ca}",
        ]


@dataclass(frozen=True)
class EntryPorts:
    """An entry server and its dispatchers' ports for notices, by model."""

    server: ServerAddress
    feedback_ports: Mapping[str, int]


@dataclass(frozen=True)
class DeploymentManifest:
    """Everything that a dispatcher, a stage, the launcher and the bench must agree on."""

    deployment: str
    epoch: int
    plan_hash: str
    entry: ServerAddress
    servers: tuple[ServerAddress, ...]
    models: tuple[ModelEntry, ...]
    versions: Mapping[str, str] = field(default_factory=dict)
    tls: TlsFiles | None = None
    """Of hops to stage servers; None: they are called without TLS."""
    unsigned_tickets: bool = False
    """Whether stages take work from whoever reaches them, where there is no ticket key."""
    cascades: tuple[CascadeEntry, ...] = field(default=(), metadata=LATER)
    more_entries: tuple[EntryPorts, ...] = field(default=(), metadata=LATER)
    """Beside `entry`; each of them has the models that `entry` has."""
    leases: LeasesAt | None = field(default=None, metadata=LATER)
    """Where entries keep who owns which shard; None where there is one entry."""

    @property
    def entries(self) -> tuple[ServerAddress, ...]:
        """All entry servers, `entry` first."""
        return (self.entry, *(more.server for more in self.more_entries))

    @property
    def every_server(self) -> tuple[ServerAddress, ...]:
        """Entry servers first."""
        return (*self.entries, *self.servers)

    @property
    def entry_ports(self) -> tuple[EntryPorts, ...]:
        """Of all entry servers."""
        own = {model.model: model.feedback_port for model in self.models}
        return (EntryPorts(self.entry, own), *self.more_entries)

    def is_entry(self, server: ServerAddress) -> bool:
        """Whether dispatchers run there."""
        return any(entry.name == server.name for entry in self.entries)

    def seen_from(self, entry: str) -> DeploymentManifest:
        """The same deployment with this entry server as `entry`. Raises KeyError."""
        ports = {each.server.name: each for each in self.entry_ports}
        if entry not in ports:
            raise KeyError(f"no entry {entry!r} in deployment {self.deployment!r}; it has {', '.join(ports)}")
        mine = ports.pop(entry)
        models = tuple(
            replace(model, feedback_port=mine.feedback_ports[model.model]) for model in self.models
        )
        # A cascade's port is so far behind those of its entry's dispatchers.
        shift = models[0].feedback_port - self.models[0].feedback_port if models else 0
        cascades = tuple(replace(one, metrics_port=one.metrics_port + shift) for one in self.cascades)
        return replace(
            self, entry=mine.server, more_entries=tuple(ports.values()), models=models, cascades=cascades
        )

    def cascade_ports(self, entry: str) -> dict[str, int]:
        """Ports of the cascades' pages at an entry, by cascade. Raises KeyError."""
        return {cascade.name: cascade.metrics_port for cascade in self.seen_from(entry).cascades}

    def server(self, name: str) -> ServerAddress:
        """The server called `name`, entry servers included. Raises KeyError."""
        for server in self.every_server:
            if server.name == name:
                return server
        raise KeyError(f"no server {name!r} in deployment {self.deployment!r}")

    def metrics_url(self, model: ModelEntry) -> str:
        """The page of a model's dispatcher: on the TCP port with the number of its feedback port."""
        return f"http://{authority(self.entry.host, model.feedback_port)}/metrics"

    def tls_of(self, server: ServerAddress) -> TlsFiles | None:
        """How a server is called: an entry is for clients, who have no certificates of ours."""
        return None if self.is_entry(server) else self.tls

    def model(self, name: str) -> ModelEntry:
        """The model called `name`. Raises KeyError."""
        for model in self.models:
            if model.model == name:
                return model
        raise KeyError(f"no model {name!r} in deployment {self.deployment!r}")

    def cascade(self, name: str) -> CascadeEntry:
        """The cascade called `name`. Raises KeyError."""
        for cascade in self.cascades:
            if cascade.name == name:
                return cascade
        raise KeyError(f"no cascade {name!r} in deployment {self.deployment!r}")

    def cascade_of(self, model: str) -> CascadeEntry | None:
        """The cascade that a model is a member of; None for one by itself."""
        for cascade in self.cascades:
            if any(member.model == model for member in cascade.members):
                return cascade
        return None

    def time_us(self, model: str) -> int:
        """How long a frame of this model has by plan, at most: the SLO; in a cascade, where its frames come
        of another member's answers, all parts of the SLO on their way. Raises KeyError.
        """
        slo_us, cascade = self.model(model).served.slo_us, self.cascade_of(model)
        return slo_us if cascade is None else max(slo_us, cascade.member(model).by_us)

    @property
    def own_models(self) -> tuple[ModelEntry, ...]:
        """Models that are in no cascade: clients send to these, and to the cascades."""
        return tuple(entry for entry in self.models if self.cascade_of(entry.model) is None)

    @property
    def doors(self) -> tuple[str, ...]:
        """The Triton models that clients call: dispatchers and cascades."""
        return (*(entry.dispatcher for entry in self.models), *(cascade.name for cascade in self.cascades))
