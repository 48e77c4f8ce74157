"""Names of Triton models, folders and files: made here, and written to deployment.json for all others.

Rules
- A worker is named after what it runs and where (`<model>.<split>.b4-9.<server>.g1.s0of2`: blocks [4, 9) on
  slice 0 of 2 of GPU 1), and after nothing of a plan: revisions that have a place in common have its worker.
- Every name is one path component of ASCII letters, digits, '_', '.', '-', and none says '..'.
- No two Triton models of a deployment have one name, not even on a file system that ignores case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

from planner.places import Place, StageBlocks
from planner.profile import ProgramFormat
from planner.programs import LIST_ENDING

ENTRY_GROUP = "entry"
GROUPS = "groups"
PROGRAMS = "programs"
LABELS = "labels"
MAX_NAME = 120
"""Characters of a Triton model's name. File systems end at 255 bytes; names are parts of longer ones."""

_COMPONENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


class NameFault(ValueError):
    """A name that Triton or a file system would refuse or mix up."""


def dispatcher(model: str) -> str:
    """The scheduler plugin of one model, which clients call: the model's own name."""
    return model


def body_ensemble(model: str) -> str:
    """The way in for plain HTTP whose body is an encoded image."""
    return f"{model}_body"


def labels_path(model: str) -> str:
    """The labels of a model's classes, relative to deployment.json's folder."""
    return f"{LABELS}/{model}.txt"


def plain_worker(model: str, worker: int) -> str:
    """A whole unsplit model on one GPU, without PPipe."""
    return f"{model}.plain.w{worker}"


def worker(model: str, blocks: StageBlocks, place: Place) -> str:
    """What a slice of a GPU runs."""
    return (
        f"{model}.{blocks.split}.b{blocks.start}-{blocks.end}.{place.server}.g{place.gpu_id}"
        f".s{place.slice_index}of{place.slices_per_gpu}"
    )


def chain(model: str, stages: Sequence[tuple[StageBlocks, Place]]) -> str:
    """The ensemble of stages at places of one server, first to last."""
    split, server = stages[0][0].split, stages[0][1].server
    cuts = "-".join(["0", *(str(blocks.end) for blocks, _ in stages)])
    slices = "-".join(f"g{place.gpu_id}s{place.slice_index}of{place.slices_per_gpu}" for _, place in stages)
    return f"{model}.{split}.b{cuts}.{server}.{slices}"


def program_list(model: str, split: str) -> str:
    """The list of a split's programs, relative to deployment.json's folder."""
    return f"{PROGRAMS}/{model}.{split}{LIST_ENDING}"


def block_program(model: str, split: str, block: int, ending: ProgramFormat) -> str:
    """The program of one block, beside the list."""
    return f"{PROGRAMS}/{model}.{split}.b{block}.{ending.value}"


def group_folder(group: str) -> str:
    """The model repository of one server group, relative to deployment.json's folder."""
    return f"{GROUPS}/{group}"


def check_component(name: str, where: str) -> None:
    """Raises NameFault unless `name` can be a folder, a file name's start and a Triton model."""
    if len(name) > MAX_NAME:
        raise NameFault(
            f"{where}: {name[:40]!r}... has {len(name)} characters; at most {MAX_NAME} are allowed"
        )
    if ".." in name or name.endswith(".") or not _COMPONENT.fullmatch(name):
        raise NameFault(
            f"{where}: {name!r} cannot name a folder and a Triton model; allowed are ASCII letters, digits, "
            "'_', '-' and single '.', with a letter or digit first and no '.' last"
        )


def check_distinct(owners: Iterable[tuple[str, str]]) -> None:
    """`owners` are (name, who wants it). Raises NameFault where two want one name, case ignored."""
    seen: dict[str, tuple[str, str]] = {}
    for name, owner in owners:
        other = seen.setdefault(name.lower(), (name, owner))
        if other[1] != owner:
            raise NameFault(
                f"{owner} and {other[1]} would both be called {name!r}"
                + ("" if name == other[0] else f" ({other[0]!r} differs in case only)")
                + ": rename one of the models"
            )


def check_groups(groups: Iterable[str]) -> None:
    """Raises NameFault for GPU classes that cannot be folders side by side, the entry group among them."""
    owners = [(ENTRY_GROUP, "the entry server's group")]
    for group in groups:
        check_component(group, "cluster.gpu_classes: name")
        owners.append((group, f"GPU class {group!r}"))
    check_distinct(owners)


def check_models(names: Mapping[str, Iterable[str]]) -> None:
    """`names`: per model of the deployment, every Triton model made for it. Raises NameFault."""
    for model, made in names.items():
        for name in made:
            check_component(name, f"model {model!r}: Triton model")
    check_distinct((name, f"model {model!r}") for model, made in names.items() for name in made)
