"""The generator's small deployment, profile and plan, for what is rolled out live."""

from tests.generator.conftest import change_stage, data, emulated, plan, profile

__all__ = ["change_stage", "data", "emulated", "plan", "profile"]
