"""Names of Triton models, folders and files: made here, and written to deployment.json for all others.

Rules
- Names of workers come with planner.serving_build's ServedModel (`<model>.p<pipeline>.s<stage>.w<worker>`).
- From a deployment's second revision on, names of workers carry it (`<model>.r2.p0.s1.w3`): models of two
  revisions may differ in anything and be loaded side by side. What clients call keeps its name; there a
  revision is a version folder.
- Every name is one path component of ASCII letters, digits, '_', '.', '-', and none says '..'.
- No two Triton models of a deployment have one name, not even on a file system that ignores case.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from planner.manifest import MANIFEST_NAME
from planner.profile import ProgramFormat

ENTRY_GROUP = "entry"
GROUPS = "groups"
PROGRAMS = "programs"
LABELS = "labels"
MAX_NAME = 120
"""Characters of a Triton model's name. File systems end at 255 bytes; names are parts of longer ones."""

_OLDER_MANIFEST = re.compile(r"deployment\.(\d+)\.json", re.ASCII)
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


def chain(model: str, pipeline: int, workers: Iterable[int], epoch: int) -> str:
    """The ensemble of a pipeline's stages on these workers of one server."""
    numbers = "-".join(str(worker) for worker in workers)
    return of_revision(f"{model}.p{pipeline}.w{numbers}", model, epoch)


def of_revision(name: str, model: str, epoch: int) -> str:
    """What `name`, which begins with the model's, is called in revision `epoch` of the plan."""
    return name if epoch == 1 else f"{model}.r{epoch}{name.removeprefix(model)}"


def without_revision(name: str, model: str, epoch: int) -> str:
    """The other way round; names that carry no revision stay."""
    prefix = f"{model}.r{epoch}"
    return model + name.removeprefix(prefix) if name.startswith((f"{prefix}.", f"{prefix}_")) else name


def older_manifest(epoch: int) -> str:
    """File of the manifest of an older revision that is still loaded; the newest is deployment.json."""
    stem, _, suffix = MANIFEST_NAME.partition(".")
    return f"{stem}.{epoch}.{suffix}"


def older_manifest_epoch(name: str) -> int | None:
    """The revision of a file that `older_manifest` named; None for any other."""
    match = _OLDER_MANIFEST.fullmatch(name)
    return None if match is None else int(match[1])


def program_path(model: str, start: int, end: int, ending: ProgramFormat) -> str:
    """The exported program of blocks [start, end), relative to deployment.json's folder."""
    return f"{PROGRAMS}/{model}.b{start}-{end}.{ending.value}"


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
