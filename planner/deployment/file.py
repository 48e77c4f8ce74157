"""A whole deployment.yaml, and what it means to planner and run time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from planner.addresses import port_faults
from planner.cluster import Cluster
from planner.deployment.cascade import CascadeSpec, cascade_faults, with_slos
from planner.deployment.cluster import ClusterSpec, cluster_of
from planner.deployment.expect import ExpectSpec
from planner.deployment.leases import LeasesSpec
from planner.deployment.model import ModelSpec, demand_of, input_spec
from planner.deployment.preprocess import PreprocessSpec
from planner.deployment.recipe import prepare_key, recipe_of
from planner.deployment.spec import AbsolutePath, Name, Spec
from planner.frames import ASSUMED_DISPATCH, ASSUMED_ENTRY, NO_COST, FrameCost, assumed_prepare
from planner.leases import LeasesAt
from planner.manifest import TlsFiles
from planner.problem import Demand, Objective, PlanOptions, Problem
from planner.profile import ModelProfile, Profile

DEFAULT_MARGIN = 0.4
"""The paper's."""
SEARCHED: Literal["auto"] = "auto"
_MOST_FAULTS = 5
"""Of one kind that are shown."""


class TlsSpec(Spec):
    """Hops to stage servers over mutual TLS. PEM files, at the same paths on every host; `server_name`: what
    the certificates are made out to, where that is not the servers' hosts.
    """

    ca: AbsolutePath
    certificate: AbsolutePath
    key: AbsolutePath
    server_name: str = ""

    def to_files(self) -> TlsFiles:
        """As the run time's type."""
        files = {name: str(getattr(self, name)) for name in ("ca", "certificate", "key")}
        return TlsFiles(**files, server_name=self.server_name)


class SurviveSpec(Spec):
    """What the promised load must survive: the loss of this many servers, whichever they are; and
    of any one entry where there are several."""

    servers: Literal[0, 1] = 1


class PlannerSpec(Spec):
    """Planner options; see planner.problem.PlanOptions."""

    objective: Literal["max-rate", "min-cost"] = "max-rate"
    max_stages: int = Field(default=2, ge=1, le=4)
    slo_margin: float | Literal["auto"] | None = None
    """The share of the SLO that a plan leaves unused; auto: found by simulation. None: auto where that takes
    a minute (ppipe.simulation.searched), else DEFAULT_MARGIN.
    """
    batch_build_factor: float = Field(default=1.3, ge=0)
    per_stage_batch: bool = False
    count_ends: bool = True
    survive: SurviveSpec = SurviveSpec(servers=0)

    @field_validator("slo_margin", mode="before")
    @classmethod
    def _is_share_or_auto(cls, stated: Any) -> Any:
        is_share = isinstance(stated, int | float) and not isinstance(stated, bool) and 0 <= stated < 1
        if is_share or stated is None or stated == SEARCHED:
            return stated
        raise ValueError(f"expected a share from 0 to below 1, or {SEARCHED}")


class DoorsSpec(Spec):
    """What is let in where. unsigned_tickets: stages take work from whoever reaches them if there is no
    ticket key; without this they refuse.
    """

    unsigned_tickets: bool = False


class Deployment(Spec):
    """A whole deployment.yaml."""

    name: Name
    cluster: ClusterSpec
    models: tuple[ModelSpec, ...] = Field(min_length=1)
    cascades: tuple[CascadeSpec, ...] = ()
    planner: PlannerSpec = PlannerSpec()
    expect: ExpectSpec = ExpectSpec()
    tls: TlsSpec | None = None
    doors: DoorsSpec = DoorsSpec()
    leases: LeasesSpec | None = None
    """Where there are several entries: who owns which shard. None: in a file of their host."""
    execution_env: AbsolutePath | None = None
    """Python environment of all stubs, at the same path on every host: an archive as conda-pack makes it, or
    the folder of one. None: the first `python3` on the server's PATH.
    """

    @model_validator(mode="before")
    @classmethod
    def _members_have_their_cascades_slo(cls, plain: Any) -> Any:
        return with_slos(plain)

    @model_validator(mode="after")
    def _nothing_twice(self) -> Deployment:
        names = [model.name for model in self.models]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"models: the name {twice[0]!r} is used more than once")
        if faults := list(cascade_faults(self.cascades, self.models)):
            raise ValueError("; ".join(faults))
        self._known_classes()
        self._one_margin()
        cluster = self.to_cluster()  # its own checks: unique names of classes and servers
        cascades = [cascade.name for cascade in self.cascades]
        faults = list(port_faults(cluster, [*names, *cascades]))
        if faults:
            shown = faults[:_MOST_FAULTS]
            more = f"; and {len(faults) - len(shown)} more" if len(faults) > len(shown) else ""
            raise ValueError(f"cluster: {'; '.join(shown)}{more}")
        return self

    def _one_margin(self) -> None:
        """Raises ValueError where margins are to be searched and a model states its own."""
        own = [model for model in self.models if model.slo_margin is not None]
        if self.planner.slo_margin == SEARCHED and own:
            stated = f"models.{own[0].name}.slo_margin: {own[0].slo_margin}"
            raise ValueError(f"{stated}, but planner.slo_margin is {SEARCHED}; leave one of the two out")

    def _known_classes(self) -> None:
        """Raises ValueError where `expect` names a class that is none."""
        known = [gpu_class.name for gpu_class in self.cluster.gpu_classes]
        for field in ("jitter", "slowdown"):
            stated = getattr(self.expect, field)
            for gpu in stated if isinstance(stated, Mapping) else ():
                if gpu not in known:
                    raise ValueError(
                        f"expect.{field}: unknown GPU class {gpu!r}; gpu_classes has {', '.join(known)}"
                    )

    @property
    def stated_margin(self) -> float | str | None:
        """The planner's margin as stated, 'auto' included, else the first that a model states; None: none."""
        stated = (self.planner.slo_margin, *(model.slo_margin for model in self.models))
        return next((margin for margin in stated if margin is not None), None)

    def to_cluster(self) -> Cluster:
        """Servers with names and ports: entry first, then group by group, ports upwards from base_port."""
        return cluster_of(self.cluster, len(self.models) + len(self.cascades))

    def to_demands(self) -> tuple[Demand, ...]:
        """What is wanted of each model."""
        streams = {cascade.first: cascade.first_streams() for cascade in self.cascades}
        demands = map(demand_of, self.models)
        return tuple(replace(one, streams=streams.get(one.model, one.streams)) for one in demands)

    def to_tls(self) -> TlsFiles | None:
        """The files of mutual TLS as the run time's type."""
        return None if self.tls is None else self.tls.to_files()

    def to_leases(self) -> LeasesAt | None:
        """Where leases are; None where one entry needs none."""
        if len(self.to_cluster().entries) == 1:
            return None
        return LeasesAt() if self.leases is None else self.leases.to_leases()

    def to_options(self) -> PlanOptions:
        """The planner's options. A margin that is to be searched is DEFAULT_MARGIN until it is found."""
        stated = self.planner.slo_margin
        return PlanOptions(
            objective=Objective(self.planner.objective),
            max_stages=self.planner.max_stages,
            slo_margin=stated if isinstance(stated, float) else DEFAULT_MARGIN,
            batch_build_factor=self.planner.batch_build_factor,
            per_stage_batch=self.planner.per_stage_batch,
            count_ends=self.planner.count_ends,
            survive_servers=self.planner.survive.servers,
            gpu_cost={gpu_class.name: gpu_class.cost for gpu_class in self.cluster.gpu_classes},
            expect=self.expect.to_expectation(),
        )

    def to_problem(self, profile: Profile) -> Problem:
        """The planning problem that this deployment states."""
        return Problem(
            cluster=self.to_cluster(),
            profile=self.with_costs(profile),
            demands=self.to_demands(),
            options=self.to_options(),
            cascades=tuple(cascade.to_cascade() for cascade in self.cascades),
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
        if len(self.cluster.entries) > 1 and overheads.dispatch == NO_COST:
            overheads = replace(overheads, dispatch=ASSUMED_DISPATCH)
        prepare = None if spec.preprocess is None else _prepare_cost(spec, spec.preprocess, profile)
        return replace(profile, overheads=overheads, prepare=prepare)

    def model(self, name: str) -> ModelSpec:
        """The model called `name`. Raises KeyError."""
        for model in self.models:
            if model.name == name:
                return model
        raise KeyError(f"no model {name!r} in deployment {self.name!r}")


def _prepare_cost(spec: ModelSpec, preprocess: PreprocessSpec, profile: ModelProfile) -> FrameCost:
    """As measured for what the file says now, else assumed."""
    recipe = recipe_of(preprocess, input_spec(spec), spec.name)
    note = json.loads(profile.provenance.get("prepare", "{}"))
    if profile.prepare is not None and note.get("of") in (None, prepare_key(recipe)):
        return profile.prepare
    return assumed_prepare(recipe.kind, recipe.fit.interpolation)
