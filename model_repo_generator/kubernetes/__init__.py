"""Deployment artefacts of a plan for a real cluster: Kubernetes bundle, docker compose file, alerts,
dashboard.

render_bundle and render_compose are pure: deployment.json, deployment file, plan and options in, texts by
path out. Objects are built as plain data and dumped, never put together from text.
"""

from model_repo_generator.kubernetes.bundle import notes, render_bundle
from model_repo_generator.kubernetes.compose import ComposeOptions, load_compose_options, render_compose
from model_repo_generator.kubernetes.names import BundleFault
from model_repo_generator.kubernetes.options import KubernetesOptions, load_options

__all__ = [
    "BundleFault",
    "ComposeOptions",
    "KubernetesOptions",
    "load_compose_options",
    "load_options",
    "notes",
    "render_bundle",
    "render_compose",
]
