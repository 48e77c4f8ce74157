"""systemd units that start a deployment's hosts."""

from model_repo_generator.systemd.units import UnitFault, UnitOptions, render_units

__all__ = ["UnitFault", "UnitOptions", "render_units"]
