"""Weights as people save them: under 'state_dict' or 'model', and with the prefixes that wrappers add.

Rules
- What is taken fits the network exactly, every name and none beside it: so nothing can mislead.
- Two sets in one file that both fit and differ (a model and its moving average) are refused.
- Files are read without running code that is in them (torch.load with weights_only).
"""

from __future__ import annotations

import argparse
import importlib
import pathlib
import pickle
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from planner.profiling.networks.errors import ModelError, some_lines

Tensors = Mapping[str, torch.Tensor]
SHOWN_KEYS = 3
_DEEPEST = 2
_HARMLESS: list[Any] = [argparse.Namespace, pathlib.PosixPath]
"""Classes without code of their own that training scripts save beside weights."""


@dataclass(frozen=True)
class FoundWeights:
    """One set of tensors of a file: where it lies, and what was done to its names."""

    tensors: Tensors
    under: str = ""
    removed: str = ""
    added: str = ""

    @property
    def remark(self) -> str:
        """What was done, or ''."""
        parts = [f"under {self.under!r}"] if self.under else []
        parts += [f"without the prefix {self.removed!r}"] if self.removed else []
        parts += [f"with the prefix {self.added!r}"] if self.added else []
        return ", ".join(parts)


def load_weights(network: torch.nn.Module, path: Path, where: str) -> str:
    """Load the file's weights into the network; what was done to find them, or ''. Raises ModelError."""
    where = f"{where}: program.state_dict {path}"
    plain = _read(path, where)
    if not isinstance(plain, dict):
        raise ModelError(f"{where} holds a {type(plain).__name__}; expected a dict")
    wanted = network.state_dict()
    found = _fitting(plain, wanted, where)
    try:
        network.load_state_dict(dict(found.tensors), strict=False)
    except (RuntimeError, TypeError, AttributeError) as error:  # shapes that differ
        raise ModelError(f"{where} does not fit: {some_lines(error)}") from error
    return found.remark


def _fitting(plain: Mapping[str, Any], wanted: Tensors, where: str) -> FoundWeights:
    """The one set that fits. Raises ModelError."""
    found = [each for each in _candidates(plain, wanted) if not any(_unfit(each, wanted))]
    others = [each for each in found if not _equal(each.tensors, found[0].tensors)] if found else []
    if others:
        both = " and ".join(repr(each.under or "the top level") for each in (found[0], others[0]))
        raise ModelError(
            f"{where} holds several weights that fit and differ, at {both}: save the one to serve by itself"
        )
    if found:
        return found[0]
    nearest = min(
        _candidates(plain, wanted),
        key=lambda each: sum(map(len, _unfit(each, wanted))),
        default=FoundWeights(tensors={}),
    )
    missing, unknown = _unfit(nearest, wanted)
    faults = [f"{len(missing)} missing ({_some(missing)})"] if missing else []
    faults += [f"{len(unknown)} unknown ({_some(unknown)})"] if unknown else []
    best = f" (at best {nearest.remark})" if nearest.remark else ""
    raise ModelError(f"{where} does not fit{best}: keys: {'; '.join(faults)}")


def _candidates(plain: Mapping[str, Any], wanted: Tensors) -> Iterator[FoundWeights]:
    """Every set of tensors in the file, as it is, without common prefixes, and with the network's own."""
    for under, tensors in _sets(plain, ""):
        yield FoundWeights(tensors=tensors, under=under)
        for prefix in _prefixes(tensors):
            bare = {name.removeprefix(prefix): value for name, value in tensors.items()}
            yield FoundWeights(tensors=bare, under=under, removed=prefix)
        for prefix in _prefixes(wanted):
            full = {prefix + name: value for name, value in tensors.items()}
            yield FoundWeights(tensors=full, under=under, added=prefix)


def _sets(plain: Mapping[str, Any], under: str, depth: int = 0) -> Iterator[tuple[str, Tensors]]:
    tensors = {str(name): value for name, value in plain.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield under, tensors
    for name, value in plain.items():
        if isinstance(value, Mapping) and depth < _DEEPEST:
            yield from _sets(value, f"{under}.{name}" if under else str(name), depth + 1)


def _prefixes(names: Mapping[str, Any]) -> Iterator[str]:
    """'module.', then 'module.model.', as far as most names begin so; whether all fit then is seen later."""
    prefix = ""
    while True:
        inside = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        heads = Counter(name.partition(".")[0] for name in inside if "." in name)
        if not heads or 2 * max(heads.values()) <= len(names):
            return
        prefix += f"{heads.most_common(1)[0][0]}."
        yield prefix


def _unfit(found: FoundWeights, wanted: Tensors) -> tuple[list[str], list[str]]:
    """Names that are missing, and names that the network does not know.

    Counts of batches came late to batch normalisation, and inference does not read them.
    """
    missing = [
        name for name in wanted if name not in found.tensors and not name.endswith("num_batches_tracked")
    ]
    return missing, [name for name in found.tensors if name not in wanted]


def _equal(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _read(path: Path, where: str) -> Any:
    """What the file holds. Raises ModelError."""
    try:
        if path.suffix == ".safetensors":
            return _read_safetensors(path, where)
        if zipfile.is_zipfile(path) and _is_torchscript(path):
            raise ModelError(
                f"{where} is a TorchScript archive, code and weights: save the weights alone, "
                "torch.save(network.state_dict(), FILE)"
            )
        with torch.serialization.safe_globals(_HARMLESS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise ModelError(f"{where}: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise ModelError(f"{where} {_unread(error)}") from error
    except (RuntimeError, EOFError, KeyError) as error:
        raise ModelError(
            f"{where} is not a file of tensors saved by torch.save: {some_lines(error)}"
        ) from error


def _read_safetensors(path: Path, where: str) -> Any:
    try:
        reader: Any = importlib.import_module("safetensors.torch")
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{where}: to read it, install safetensors, or save it anew with torch.save(state_dict, FILE)"
        ) from error
    if not path.is_file():
        raise ModelError(f"{where}: No such file or directory")
    try:
        return reader.load_file(str(path))
    except Exception as error:  # its own class of errors is made in Rust
        raise ModelError(f"{where} is not a file of safetensors: {some_lines(error)}") from error


def _is_torchscript(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def _unread(error: Exception) -> str:
    """Why a pickle is not read: it holds an object of some class, or is no pickle of torch's."""
    _, found, rest = str(error).partition("Unsupported global: GLOBAL ")
    if found:
        return (
            f"holds an object of {rest.split()[0]} beside tensors, and reading it would run code: save the "
            "weights alone, torch.save(network.state_dict(), FILE)"
        )
    return f"is not a file of tensors saved by torch.save: {some_lines(error)}"


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:SHOWN_KEYS]) + (", ..." if len(keys) > SHOWN_KEYS else "")
