"""deployment.yaml: what a user writes; validated, then turned into the frozen types that all else uses."""

from planner.deployment.cascade import CascadeSpec, MemberSpec
from planner.deployment.cluster import (
    ClusterSpec,
    EntrySpec,
    GpuClassSpec,
    ServerGroupSpec,
    ServerSpec,
    StatedSpeedSpec,
)
from planner.deployment.expect import ExpectSpec
from planner.deployment.file import SEARCHED, Deployment, DoorsSpec, PlannerSpec, SurviveSpec, TlsSpec
from planner.deployment.leases import LeasesSpec
from planner.deployment.model import (
    ExecutorOptionsSpec,
    ModelSpec,
    PostprocessSpec,
    ProgramSpec,
    TensorSpecModel,
    beside_the_picture,
    input_spec,
    input_specs,
)
from planner.deployment.preprocess import FrameSpec, PreprocessSpec
from planner.deployment.reading import DeploymentError, load_deployment, parse_deployment
from planner.deployment.recipe import PreprocessFault, prepare_key, recipe_of

__all__ = [
    "SEARCHED",
    "CascadeSpec",
    "ClusterSpec",
    "Deployment",
    "DeploymentError",
    "DoorsSpec",
    "EntrySpec",
    "ExecutorOptionsSpec",
    "ExpectSpec",
    "FrameSpec",
    "GpuClassSpec",
    "LeasesSpec",
    "MemberSpec",
    "ModelSpec",
    "PlannerSpec",
    "PostprocessSpec",
    "PreprocessFault",
    "PreprocessSpec",
    "ProgramSpec",
    "ServerGroupSpec",
    "ServerSpec",
    "StatedSpeedSpec",
    "SurviveSpec",
    "TensorSpecModel",
    "TlsSpec",
    "beside_the_picture",
    "input_spec",
    "input_specs",
    "load_deployment",
    "parse_deployment",
    "prepare_key",
    "recipe_of",
]
