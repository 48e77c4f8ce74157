"""Load the network that a deployment names: a factory with a seed and weights, or a saved .pt2 program.

Rules
- The same ModelSpec gives the same weights on every machine: the factory runs under
  torch.manual_seed(spec.seed).
- Everything that can be wrong with a spec is a ModelError that names the model, the field and what would be
  accepted.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from planner.deployment import ModelSpec, ProgramSpec
from planner.profiling.networks.archive import code_in
from planner.profiling.networks.errors import ModelError, some_lines
from planner.profiling.networks.weights import load_weights


@dataclass(frozen=True)
class LoadedNetwork:
    """A network in eval mode with its weights. `remarks`: what its owner should know of how it was loaded."""

    module: torch.nn.Module
    remarks: tuple[str, ...] = ()


def load_network(spec: ModelSpec, device: str = "cpu") -> torch.nn.Module:
    """The network of `spec.program`, a factory, in eval mode with its weights. Raises ModelError.

    On the device 'meta' it has shapes and no weights: the same graph, sooner.
    """
    return load_with_remarks(spec, device).module


def load_with_remarks(spec: ModelSpec, device: str = "cpu", without_weights: bool = False) -> LoadedNetwork:
    """As load_network. `without_weights`: a state_dict that is not here is done without."""
    where = f"model {spec.name}"
    import_libraries(spec.program.imports, where)
    factory = _factory(spec.program, where)
    with _seeded(spec.program.seed), torch.device(device), contextlib.redirect_stdout(io.StringIO()):
        try:
            network = factory(**spec.program.arguments)
        except Exception as error:
            arguments = ", ".join(f"{key}={value!r}" for key, value in spec.program.arguments.items())
            raise ModelError(
                f"{where}: program.factory {spec.program.factory}({arguments}) failed: {some_lines(error)}"
            ) from error
    _require_module(network, f"{where}: program.factory {spec.program.factory}")
    remarks = []
    weights = spec.program.state_dict
    if weights is not None and without_weights and not weights.exists():
        remarks.append(f"weights: {weights} is not here; with random ones")
    elif weights is not None and device != "meta" and (found := load_weights(network, weights, where)):
        remarks.append(f"weights: taken {found}")
    return LoadedNetwork(module=network.eval().requires_grad_(False), remarks=tuple(remarks))


def import_libraries(modules: Sequence[str], where: str) -> None:
    """Import what registers a program's operators. Raises ModelError."""
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ModelError(
                f"{where}: program.imports: {name} cannot be imported: {some_lines(error)}"
            ) from error


def _require_module(network: object, where: str) -> None:
    if not isinstance(network, torch.nn.Module):
        raise ModelError(f"{where} returned a {type(network).__name__}; expected a torch.nn.Module")
    kind = type(network).__name__
    if isinstance(network, torch.jit.ScriptModule):
        raise ModelError(
            f"{where} returned a TorchScript module, which torch.export does not take: return the "
            "torch.nn.Module that it was made from, with its weights"
        )
    inner = _INNER.get(kind)
    if inner is not None and hasattr(network, inner):
        raise ModelError(f"{where} returned a {kind}: return the network inside of it, its .{inner}")


_INNER = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "FullyShardedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
}
"""Wrappers for training and compiling, and where the network is in them."""


def load_program(
    path: Path, where: str, imports: Sequence[str] = (), sha256: str | None = None
) -> ExportedProgram:
    """The program saved by torch.export.save at `path`; `imports` register its operators. sha256: of the file
    that is meant; no other is opened, because loading one can run code. Without it, one that would is not.

    Raises ModelError.
    """
    import_libraries(imports, where)
    if not path.is_file():
        raise ModelError(f"{where}: program.pt2 {path}: no such file")
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if sha256 is not None and found != sha256:
        raise ModelError(
            f"{where}: program.pt2 {path} has SHA-256 {found}, program.sha256 is {sha256}: it is not the "
            "file that was meant, and loading it could run anybody's code"
        )
    try:
        code = "" if sha256 is not None else code_in(content)
        if not code:
            return torch.export.load(io.BytesIO(content))
    except Exception as error:
        raise ModelError(
            f"{where}: program.pt2 {path} is not a program saved by torch.export.save: {some_lines(error)}"
        ) from error
    raise ModelError(
        f"{where}: program.pt2 {path} {code}: opening it would run code of whoever made it. If that may be, "
        f"name the file: program: {{pt2: ..., sha256: {found}}}"
    )


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
            f"{where}: program.factory: importing {module_name} failed: {some_lines(error)}"
        ) from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        problem = "has no attribute" if factory is None else "has something not callable as"
        raise ModelError(f"{where}: program.factory: module {module_name} {problem} {attribute!r}")
    found: Callable[..., Any] = factory
    return found


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield
