"""The bundle of the tests of Kubernetes, whose alerts and dashboard are looked at here."""

from tests.kubernetes.conftest import (
    bundle,
    fleet_data,
    fleet_deployment,
    fleet_manifest,
    fleet_plan,
    options,
)

__all__ = ["bundle", "fleet_data", "fleet_deployment", "fleet_manifest", "fleet_plan", "options"]
