"""deployment.yaml: what a user writes; validated, then turned into the frozen types that all else uses."""

from planner.deployment.cluster import (
    ClusterSpec,
    EntrySpec,
    GpuClassSpec,
    ServerGroupSpec,
    ServerSpec,
    StatedSpeedSpec,
)
from planner.deployment.file import Deployment, PlannerSpec, TlsSpec
from planner.deployment.model import (
    ExecutorOptionsSpec,
    FrameSpec,
    ModelSpec,
    PostprocessSpec,
    PreprocessSpec,
    ProgramSpec,
    TensorSpecModel,
    input_spec,
)
from planner.deployment.reading import DeploymentError, load_deployment, parse_deployment

__all__ = [
    "ClusterSpec",
    "Deployment",
    "DeploymentError",
    "EntrySpec",
    "ExecutorOptionsSpec",
    "FrameSpec",
    "GpuClassSpec",
    "ModelSpec",
    "PlannerSpec",
    "PostprocessSpec",
    "PreprocessSpec",
    "ProgramSpec",
    "ServerGroupSpec",
    "ServerSpec",
    "StatedSpeedSpec",
    "TensorSpecModel",
    "TlsSpec",
    "input_spec",
    "load_deployment",
    "parse_deployment",
]
