"""How benchmarks end: their figures as a small listing, or with --json as one line of JSON, the last one."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from typing import Any


def main(description: str, run: Callable[..., Mapping[str, Any]], **options: Any) -> None:
    """Run a benchmark from the command line; `options` are its keyword arguments with their defaults."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", action="store_true", help="print the figures as JSON on the last line")
    for name, default in options.items():
        kind = _floats if isinstance(default, tuple) else type(default)
        parser.add_argument(f"--{name.replace('_', '-')}", type=kind, default=default)
    arguments = vars(parser.parse_args())
    as_json = arguments.pop("json")
    figures = run(**arguments)
    if as_json:
        print(json.dumps(figures))
        return
    for name, value in figures.items():
        print(f"{name}: {json.dumps(value)}")


def _floats(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
