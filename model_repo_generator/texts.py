"""Texts that are templates by nature (configurations of other programs), in templates/*.j2.

Nothing is escaped here, for no two formats agree on how: whoever renders checks what goes in.
"""

from __future__ import annotations

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined


def render_text(template: str, **values: Any) -> str:
    """templates/<template>.j2 with these values; a value that is missing is an error."""
    environment = Environment(
        loader=PackageLoader("model_repo_generator"),
        autoescape=False,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(f"{template}.j2").render(values)
