"""Load the network that a deployment names: a factory with a seed and weights, or a saved .pt2 program.

Rules
- The same ModelSpec gives the same weights on every machine: the factory runs under
  torch.manual_seed(spec.seed).
- Everything that can be wrong with a spec is a ModelError that names the model, the field and what would be
  accepted.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from planner.deployment import ModelSpec, ProgramSpec

SHOWN_KEYS = 3


class ModelError(ValueError):
    """A model that cannot be loaded, exported or split; the message says which, where and what would do."""


def load_network(spec: ModelSpec, device: str = "cpu") -> torch.nn.Module:
    """The network of `spec.program`, a factory, in eval mode with its weights. Raises ModelError.

    On the device 'meta' it has shapes and no weights, which is enough to split it and to estimate its
    latency.
    """
    where = f"model {spec.name}"
    factory = _factory(spec.program, where)
    with _seeded(spec.program.seed), torch.device(device), contextlib.redirect_stdout(io.StringIO()):
        try:
            network = factory(**spec.program.arguments)
        except Exception as error:
            arguments = ", ".join(f"{key}={value!r}" for key, value in spec.program.arguments.items())
            raise ModelError(
                f"{where}: program.factory {spec.program.factory}({arguments}) failed: {_brief(error)}"
            ) from error
    if not isinstance(network, torch.nn.Module):
        raise ModelError(
            f"{where}: program.factory {spec.program.factory} returned a {type(network).__name__}; "
            "a torch.nn.Module belongs there"
        )
    if spec.program.state_dict is not None and device != "meta":
        _load_weights(network, spec.program.state_dict, where)
    return network.eval().requires_grad_(False)


def load_program(path: Path, where: str) -> ExportedProgram:
    """The program saved by torch.export.save at `path`. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"{where}: program.pt2 {path}: no such file")
    try:
        return torch.export.load(path)
    except Exception as error:
        raise ModelError(
            f"{where}: program.pt2 {path} is not a program saved by torch.export.save: {_brief(error)}"
        ) from error


def _factory(program: ProgramSpec, where: str) -> Callable[..., Any]:
    if program.factory is None:
        raise ModelError(f"{where}: program.factory is not given; this program is the file {program.pt2}")
    module_name, _, attribute = program.factory.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{where}: program.factory: no module named {error.name!r}; it must be importable from here"
        ) from error
    except Exception as error:
        raise ModelError(
            f"{where}: program.factory: importing {module_name} failed: {_brief(error)}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        problem = "has no attribute" if factory is None else "has something not callable as"
        raise ModelError(f"{where}: program.factory: module {module_name} {problem} {attribute!r}")
    found: Callable[..., Any] = factory
    return found


def _load_weights(network: torch.nn.Module, path: Path, where: str) -> None:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{where}: program.state_dict {path}: {error.strerror or error}") from error
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError) as error:
        raise ModelError(
            f"{where}: program.state_dict {path} is not a file of tensors saved by torch.save: "
            f"{_brief(error)}"
        ) from error
    if not isinstance(state, dict):
        raise ModelError(
            f"{where}: program.state_dict {path} holds a {type(state).__name__}; a dict belongs there"
        )
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (
        RuntimeError,
        TypeError,
        AttributeError,
    ) as error:  # shapes that differ, values that are no tensors
        raise ModelError(f"{where}: program.state_dict {path} does not fit: {_brief(error)}") from error
    faults = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
    faults += [f"{len(unexpected)} unknown ({_some(unexpected)})"] if unexpected else []
    if faults:
        raise ModelError(f"{where}: program.state_dict {path} does not fit: keys: {'; '.join(faults)}")


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")


def _brief(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines[:SHOWN_KEYS])}" if lines else type(error).__name__
