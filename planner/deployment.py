"""deployment.yaml: what a user writes. Validated here, then turned into the frozen types that all else uses.

Every message names the field, the value and what is allowed; an unknown field is refused with the nearest
name.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from planner.addresses import checked_host, port_faults
from planner.cluster import (
    Cluster,
    EntryServer,
    Executor,
    GpuClass,
    Server,
    StatedSpeed,
)
from planner.devices import GpuServer, devices_of
from planner.execution import Compiler, ExecutorOptions, Precision
from planner.frames import ASSUMED_ENTRY, ASSUMED_PREPARE, NO_COST, FrameSize
from planner.manifest import TlsFiles
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.profile import DTYPE_BYTES, ModelProfile, Profile, TensorSpec

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_.-]{0,62}[A-Za-z0-9])?$")]
"""Safe as a folder, a Triton model name and a Kubernetes label; '..' is refused where names are made."""
Host = Annotated[str, AfterValidator(checked_host)]
Device = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, int) else value),
    Field(pattern=r"^([0-9]{1,3}|(GPU|MIG)-[A-Za-z0-9/-]{1,100})$"),
]
PORTS_PER_SERVER = 3
ENTRY_PORTS = 3
CARRIED_SHARE = 0.95
"""What TCP over Ethernet carries of a link's bandwidth: 1,448 of 1,538 bytes per packet, and some reserve."""
CORES_PER_GPU = 4
"""Of a server whose cores are not stated; cloud servers of L4 and T4 have as many or more."""
JPEG_BYTES_PER_PIXEL = 0.17
"""Of a JPEG whose size is not stated: 350 KB at 1920 x 1080."""
BYTES_PER_FINDING = 64
"""Of a class or a box in an answer: score, index, label, coordinates."""
_MOST_FAULTS = 5
"""Of one kind that are shown."""


class DeploymentError(ValueError):
    """A deployment file that cannot be used; the message has one line per fault."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("an absolute path belongs here: it is used on every host")
    return path


class StatedSpeedSpec(_Strict):
    """See planner.cluster.StatedSpeed."""

    gflop_per_s: float = Field(gt=0)
    gbyte_per_s: float = Field(gt=0)
    overhead_us: float = Field(default=0.0, ge=0)


class GpuClassSpec(_Strict):
    """A GPU class. `executor: cpu` with `stated` is padded; `emulated` needs `stated` or a profile."""

    name: Name
    max_slices_per_gpu: int = Field(default=1, ge=1, le=16)
    memory_gib: float | None = Field(default=None, gt=0)
    executor: Literal["cuda", "cpu", "emulated"] = "cuda"
    stated: StatedSpeedSpec | None = None
    cost: float = Field(default=1.0, gt=0)


class ServerSpec(_Strict):
    """Address of one server; ports left out are given out from base_port."""

    name: Name
    host: Host = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)
    grpc_port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    devices: tuple[Device, ...] = ()
    """Its GPUs, as nvidia-smi numbers them or by UUID. Default: the lowest that no server of the host has."""


class ServerGroupSpec(_Strict):
    """Equal servers of one GPU class: either a list of addresses or a count of servers on `host`."""

    gpu: Name
    gpus_per_server: int = Field(ge=1, le=64)
    count: int | None = Field(default=None, le=10_000)
    host: Host = "127.0.0.1"
    servers: tuple[ServerSpec, ...] = ()
    bandwidth_gbps: float | None = Field(default=None, gt=0)
    cores: int | None = Field(default=None, ge=1, le=1024)
    """Of each server, for preparing frames and finishing answers. Default: CORES_PER_GPU for each of its
    GPUs."""

    @field_validator("count")
    @classmethod
    def _some(cls, count: int | None) -> int | None:
        if count is not None and count < 1:
            raise ValueError(
                "a pool without servers is left out by leaving its group out; "
                "a count is greater than or equal to 1"
            )
        return count

    @model_validator(mode="after")
    def _count_or_list(self) -> ServerGroupSpec:
        if (self.count is None) == (not self.servers):
            raise ValueError(f"group of {self.gpu!r}: give either 'count' or a list of 'servers'")
        return self


class EntrySpec(_Strict):
    """The entry server: its address, its link (default: the cluster's bandwidth), its cores. All that
    clients send and get crosses the link too, unless `client_bandwidth_gbps` says that they have one of
    their own.
    """

    host: Host = "127.0.0.1"
    http_port: int = Field(default=0, ge=0, le=65535)
    grpc_port: int = Field(default=0, ge=0, le=65535)
    metrics_port: int = Field(default=0, ge=0, le=65535)
    feedback_port: int = Field(default=0, ge=0, le=65535)
    bandwidth_gbps: float | None = Field(default=None, gt=0)
    client_bandwidth_gbps: float | None = Field(default=None, gt=0)
    cores: int | None = Field(default=None, ge=1, le=1024)


class ClusterSpec(_Strict):
    """Classes, server groups, the entry server. `base_port`: local ports are given out upwards from here."""

    gpu_classes: tuple[GpuClassSpec, ...] = Field(min_length=1)
    groups: tuple[ServerGroupSpec, ...] = Field(min_length=1)
    entry: EntrySpec = EntrySpec()
    bandwidth_gbps: float = Field(default=10.0, gt=0)
    base_port: int = Field(default=18000, ge=1024, le=60000)

    @model_validator(mode="after")
    def _known_classes(self) -> ClusterSpec:
        names = [gpu_class.name for gpu_class in self.gpu_classes]
        for group in self.groups:
            if group.gpu not in names:
                near = difflib.get_close_matches(group.gpu, names, n=1, cutoff=0.5)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ValueError(
                    f"groups: unknown GPU class {group.gpu!r}{hint}; gpu_classes has {', '.join(names)}"
                )
        return self


class TensorSpecModel(_Strict):
    """One input tensor of one frame, without the batch dimension."""

    name: Name
    dtype: str = "FP32"
    shape: tuple[Annotated[int, Field(ge=1)], ...]

    @model_validator(mode="after")
    def _known_dtype(self) -> TensorSpecModel:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"dtype {self.dtype!r} is not one of {', '.join(DTYPE_BYTES)}")
        return self


class ProgramSpec(_Strict):
    """Where the network comes from: an importable factory 'package.module:callable', or a saved .pt2 file."""

    factory: str | None = Field(default=None, pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")
    arguments: dict[str, Any] = Field(default_factory=dict)
    state_dict: Path | None = None
    seed: int = 0
    pt2: Path | None = None

    @model_validator(mode="after")
    def _one_source(self) -> ProgramSpec:
        if (self.factory is None) == (self.pt2 is None):
            raise ValueError("program: give either 'factory' (package.module:callable) or 'pt2' (a file)")
        return self


class FrameSpec(_Strict):
    """What clients send for one frame, as planned with. `bytes` of a raw frame follow from its size."""

    width: int = Field(ge=1, le=65_535)
    height: int = Field(ge=1, le=65_535)
    bytes: int | None = Field(default=None, ge=1, le=1 << 30)


class PreprocessSpec(_Strict):
    """Encoded or raw frames to the model's input: decode, resize, scale to [0, 1], normalise per channel."""

    kind: Literal["jpeg", "raw"] = "jpeg"
    frame: FrameSpec | None = None
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    def to_frame(self) -> FrameSize:
        """As the planner's type; what is not stated is assumed, and marked so."""
        width, height, size = 1920, 1080, None
        if self.frame is not None:
            width, height, size = self.frame.width, self.frame.height, self.frame.bytes
        assumed = self.frame is None or (size is None and self.kind == "jpeg")
        if size is None:
            size = (
                width * height * 3 if self.kind == "raw" else math.ceil(width * height * JPEG_BYTES_PER_PIXEL)
            )
        return FrameSize(width, height, size, assumed)

    @model_validator(mode="after")
    def _raw_size(self) -> PreprocessSpec:
        frame = self.frame
        if (
            self.kind == "raw"
            and frame is not None
            and frame.bytes not in (None, frame.width * frame.height * 3)
        ):
            where = f"frame.bytes {frame.bytes} of a raw frame of {frame.width} x {frame.height}"
            raise ValueError(f"{where}; leave it out, it is {frame.width * frame.height * 3}")
        return self


class PostprocessSpec(_Strict):
    """Model output to an answer.

    classification: the first output has a score per class; answers top-k indices, scores and labels.
    detection: the first output is boxes [n, 4] (left, top, right, bottom), the second scores [n, classes];
    answers at most `max_boxes` boxes that remain after non-maximum suppression per class.
    segmentation: the first output is scores [classes, height, width]; answers the best class of each pixel.
    Boxes are in pixels of the frame as the client sent it, upright.
    """

    task: Literal["classification", "detection", "segmentation"] = "classification"
    top_k: int = Field(default=5, ge=1, le=1000)
    labels: Path | None = None
    max_boxes: int = Field(default=100, ge=1, le=10_000)
    min_score: float = Field(default=0.05, ge=0, le=1)
    max_overlap: float = Field(default=0.5, gt=0, le=1)
    """Of two boxes of one class that overlap more (intersection over union), the lower score is dropped."""
    raw_outputs: bool = False
    """Answer the model's own outputs too; they may be large."""


class ExecutorOptionsSpec(_Strict):
    """How the model's stages are run; see planner.execution."""

    precision: Literal["tf32", "fp32", "fp16", "bf16"] = "tf32"
    channels_last: bool = True
    compiler: Literal["none", "inductor", "autotune", "aot-inductor"] = "none"
    cuda_graphs: bool = False
    pad_to_captured: bool = False
    pinned: bool = True

    @model_validator(mode="after")
    def _padded_graphs(self) -> ExecutorOptionsSpec:
        if self.pad_to_captured and not self.cuda_graphs:
            raise ValueError("executor_options: 'pad_to_captured' needs 'cuda_graphs: true'")
        return self

    def to_options(self) -> ExecutorOptions:
        """As the run time's type."""
        plain = self.model_dump()
        plain["precision"] = Precision(self.precision)
        plain["compiler"] = Compiler(self.compiler)
        return ExecutorOptions(**plain)


class ModelSpec(_Strict):
    """One served model. `late`: what happens to frames that can no longer meet their deadline."""

    name: Name
    program: ProgramSpec
    input: TensorSpecModel
    slo_ms: float = Field(gt=0)
    weight: float | None = Field(default=None, gt=0)
    rate_rps: float | None = Field(default=None, gt=0)
    slo_margin: float | None = Field(default=None, ge=0, lt=1)
    batch_sizes: tuple[Annotated[int, Field(ge=1, le=256)], ...] = (1, 2, 4, 8)
    blocks: int = Field(default=10, ge=1, le=100)
    preprocess: PreprocessSpec | None = None
    postprocess: PostprocessSpec | None = None
    late: Literal["drop", "serve"] = "drop"
    executor_options: ExecutorOptionsSpec = ExecutorOptionsSpec()
    cut_dtype: Literal["fp32", "fp16"] = "fp32"
    """fp16: FP32 tensors between stages travel as FP16; what that costs in exactness is in the profile."""


class TlsSpec(_Strict):
    """Hops to stage servers over mutual TLS. PEM files, at the same paths on every host; `server_name`: what
    the certificates are made out to, where that is not the servers' hosts.
    """

    ca: Path
    certificate: Path
    key: Path
    server_name: str = ""

    @field_validator("ca", "certificate", "key")
    @classmethod
    def _is_absolute(cls, path: Path) -> Path:
        return _absolute(path)


class PlannerSpec(_Strict):
    """Planner options; see planner.problem.PlanOptions."""

    objective: Literal["max-rate", "min-cost"] = "max-rate"
    max_stages: int = Field(default=2, ge=1, le=4)
    slo_margin: float = Field(default=0.4, ge=0, lt=1)
    batch_build_factor: float = Field(default=1.3, ge=0)
    per_stage_batch: bool = False
    count_ends: bool = True


class Deployment(_Strict):
    """A whole deployment.yaml."""

    name: Name
    cluster: ClusterSpec
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    planner: PlannerSpec = PlannerSpec()
    tls: TlsSpec | None = None
    execution_env: Path | None = None
    """Python environment of all stubs, at the same path on every host: an archive as conda-pack makes it, or
    the folder of one. None: the first `python3` on the server's PATH.
    """

    @field_validator("execution_env")
    @classmethod
    def _is_absolute(cls, path: Path | None) -> Path | None:
        return None if path is None else _absolute(path)

    @model_validator(mode="after")
    def _unique_models(self) -> Deployment:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: the name {twice[0]!r} is used more than once")
        cluster = self.to_cluster()  # its own checks: unique names of classes and servers
        faults = list(port_faults(cluster, names))
        if faults:
            shown = faults[:_MOST_FAULTS]
            more = f"; and {len(faults) - len(shown)} more" if len(faults) > len(shown) else ""
            raise ValueError(f"cluster: {'; '.join(shown)}{more}")
        return self

    def to_cluster(self) -> Cluster:
        """Servers with names and ports: entry first, then group by group, ports upwards from base_port."""
        spec = self.cluster
        port = spec.base_port
        entry = EntryServer(
            host=spec.entry.host,
            http_port=spec.entry.http_port or port,
            grpc_port=spec.entry.grpc_port or port + 1,
            metrics_port=spec.entry.metrics_port or port + 2,
            feedback_port=spec.entry.feedback_port or port + 3,
            bandwidth_gbps=spec.entry.bandwidth_gbps or spec.bandwidth_gbps,
            client_bandwidth_gbps=spec.entry.client_bandwidth_gbps,
            cores=spec.entry.cores,
        )
        port += ENTRY_PORTS + 2 * len(self.models)  # two revisions may be loaded side by side
        servers = []
        for group, server in _grouped_servers(spec):
            servers.append(
                Server(
                    name=server.name,
                    gpu=group.gpu,
                    gpu_count=group.gpus_per_server,
                    bandwidth_gbps=group.bandwidth_gbps or spec.bandwidth_gbps,
                    cores=group.cores or CORES_PER_GPU * group.gpus_per_server,
                    host=server.host,
                    http_port=server.http_port or port,
                    grpc_port=server.grpc_port or port + 1,
                    metrics_port=server.metrics_port or port + 2,
                    devices=server.devices,
                )
            )
            port += PORTS_PER_SERVER
        return Cluster(
            gpu_classes=tuple(_gpu_class(gpu_class) for gpu_class in spec.gpu_classes),
            servers=_with_devices(spec, servers),
            entry=entry,
            carried_share=CARRIED_SHARE,
        )

    def to_demands(self) -> tuple[Demand, ...]:
        """What is wanted of each model; a model with neither weight nor rate has weight 1."""
        return tuple(
            Demand(
                model=model.name,
                slo_us=round(model.slo_ms * 1000),
                weight=1.0 if model.weight is None and model.rate_rps is None else model.weight,
                rate_rps=model.rate_rps,
                slo_margin=model.slo_margin,
                frame=_frame(model),
                answer_bytes=_answer_bytes(model),
            )
            for model in self.models
        )

    def to_tls(self) -> TlsFiles | None:
        """The files of mutual TLS as the run time's type."""
        if self.tls is None:
            return None
        files = {name: str(getattr(self.tls, name)) for name in ("ca", "certificate", "key")}
        return TlsFiles(**files, server_name=self.tls.server_name)

    def to_options(self) -> PlanOptions:
        """The planner's options."""
        return PlanOptions(
            objective=Objective(self.planner.objective),
            max_stages=self.planner.max_stages,
            slo_margin=self.planner.slo_margin,
            batch_build_factor=self.planner.batch_build_factor,
            per_stage_batch=self.planner.per_stage_batch,
            count_ends=self.planner.count_ends,
            gpu_cost={gpu_class.name: gpu_class.cost for gpu_class in self.cluster.gpu_classes},
        )

    def to_problem(self, profile: Profile) -> Problem:
        """The planning problem that this deployment states."""
        return Problem(
            cluster=self.to_cluster(),
            profile=self.with_costs(profile),
            demands=self.to_demands(),
            options=self.to_options(),
        )

    def with_costs(self, profile: Profile) -> Profile:
        """The profile with what it does not know of preparing frames and of the entry assumed, and marked
        so."""
        return replace(profile, models=tuple(self._with_costs(model) for model in profile.models))

    def _with_costs(self, profile: ModelProfile) -> ModelProfile:
        spec = next((model for model in self.models if model.name == profile.model), None)
        if spec is None or not self.planner.count_ends:
            return profile
        overheads = profile.overheads
        if overheads.entry == NO_COST:
            overheads = replace(overheads, entry=ASSUMED_ENTRY)
        prepare = profile.prepare
        if prepare is None and spec.preprocess is not None:
            prepare = ASSUMED_PREPARE[spec.preprocess.kind]
        return replace(profile, overheads=overheads, prepare=prepare)

    def model(self, name: str) -> ModelSpec:
        """The model called `name`. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no model {name!r} in deployment {self.name!r}")


def _frame(model: ModelSpec) -> FrameSize:
    """What clients send; without preprocessing the network's input."""
    if model.preprocess is not None:
        return model.preprocess.to_frame()
    return FrameSize(0, 0, input_spec(model).bytes_per_frame)


def _answer_bytes(model: ModelSpec) -> int | None:
    """What goes back for one frame; None: the network's outputs."""
    post = model.postprocess
    if post is None or post.task == "segmentation":
        return None
    return BYTES_PER_FINDING * (post.top_k if post.task == "classification" else post.max_boxes)


def input_spec(model: ModelSpec) -> TensorSpec:
    """The model's input as the run time's type."""
    return TensorSpec(name=model.input.name, dtype=model.input.dtype, shape=model.input.shape)


def load_deployment(path: Path) -> Deployment:
    """Read and validate a deployment file. Raises DeploymentError, with one line per fault."""
    try:
        plain = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DeploymentError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DeploymentError(f"{path}: not YAML: {error}") from error
    return parse_deployment(plain, str(path))


def parse_deployment(plain: Any, where: str) -> Deployment:
    """Validate plain data. Raises DeploymentError."""
    try:
        return Deployment.model_validate(plain)
    except pydantic.ValidationError as error:
        lines = [_fault(where, fault) for fault in error.errors()]
        raise DeploymentError("\n".join(lines)) from error


def _fault(where: str, fault: Any) -> str:
    field = ".".join(str(part) for part in fault["loc"]) or "(top level)"
    value = fault["input"]
    shown = f" (got {value!r})" if isinstance(value, str | int | float | bool | type(None)) else ""
    if fault["type"] == "extra_forbidden":
        return f"{where}: {field}: unknown field{_nearest(fault['loc'])}"
    return f"{where}: {field}: {fault['msg'].removeprefix('Value error, ')}{shown}"


def _nearest(loc: tuple[Any, ...]) -> str:
    owner = _owner_of(loc)
    if owner is None:
        return ""
    near = difflib.get_close_matches(str(loc[-1]), owner.model_fields, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"; {hint}allowed: {', '.join(owner.model_fields)}"


def _owner_of(loc: tuple[Any, ...]) -> type[BaseModel] | None:
    """The spec class whose field list `loc` ends in."""
    owners: dict[str, type[BaseModel]] = {
        "cluster": ClusterSpec, "gpu_classes": GpuClassSpec, "groups": ServerGroupSpec, "servers": ServerSpec,
        "entry": EntrySpec, "stated": StatedSpeedSpec, "models": ModelSpec, "input": TensorSpecModel,
        "program": ProgramSpec, "preprocess": PreprocessSpec, "postprocess": PostprocessSpec,
        "planner": PlannerSpec, "tls": TlsSpec, "executor_options": ExecutorOptionsSpec,
    }  # fmt: skip
    named = [part for part in loc[:-1] if isinstance(part, str)]
    return owners.get(named[-1]) if named else Deployment


def _grouped_servers(spec: ClusterSpec) -> Iterator[tuple[ServerGroupSpec, ServerSpec]]:
    """Servers of groups by count are called <class>-0, -1, ... through all groups of their class."""
    numbers = {gpu_class.name: itertools.count() for gpu_class in spec.gpu_classes}
    for group in spec.groups:
        for server in group.servers:
            yield group, server
        for _ in range(group.count or 0):
            yield group, ServerSpec(name=f"{group.gpu}-{next(numbers[group.gpu])}", host=group.host)


def _with_devices(spec: ClusterSpec, servers: Sequence[Server]) -> tuple[Server, ...]:
    """Raises ValueError where two servers would have one GPU."""
    on_gpus = {one.name for one in spec.gpu_classes if one.executor == "cuda"}
    found = devices_of(
        GpuServer(server.name, server.host, server.gpu_count, server.devices)
        for server in servers
        if server.gpu in on_gpus
    )
    return tuple(replace(server, devices=found.get(server.name, ())) for server in servers)


def _gpu_class(spec: GpuClassSpec) -> GpuClass:
    return GpuClass(
        name=spec.name,
        max_slices_per_gpu=spec.max_slices_per_gpu,
        memory_bytes=None if spec.memory_gib is None else round(spec.memory_gib * 2**30),
        executor=Executor(spec.executor),
        stated=None if spec.stated is None else StatedSpeed(**spec.stated.model_dump()),
    )
