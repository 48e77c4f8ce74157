"""The root of a repository, and several repositories that one server is given together.

Rules
- A server that loads all models (--model-control-mode=none, the default, or --load-model=*) takes every
  folder for a model, hidden ones too, and ends if one is not loaded. One that is told what to load does not
  mind.
- A name may be once in all repositories of a server, unless it has --model-namespacing=true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.folders import Repository
from model_repo_generator.lint.model import Host, LintedModel, make_finding


def check_root(repository: Repository, host: Host) -> Iterator[Finding]:
    """What lies in the root and is no model."""
    shown = "" if repository.shown == "." else f"{repository.shown}/"
    if not (repository.models or repository.hidden or repository.dangling):
        yield make_finding("repository-empty", "", repository.shown, 0, "", "holds no models")
    if not host.loads_all:
        return
    for name in repository.hidden:
        said = (
            "a server that loads all models takes this folder for one, too, and ends as it cannot load it; "
            "move it out, or give --explicit if your servers are told what to load"
        )
        yield make_finding("stray-folder", name, f"{shown}{name}", 0, "", said)
    for name in repository.dangling:
        said = "is a link that leads nowhere: a server that loads all models finds none, and ends"
        yield make_finding("dangling-link", name, f"{shown}{name}", 0, "", said)


def check_names(together: Sequence[Mapping[str, LintedModel]], host: Host) -> Iterator[Finding]:
    """Models of one name in several repositories of one server."""
    if host.namespacing:
        return
    for model, others in twice(together):
        said = (
            f"{' and '.join(other.folder.shown for other in others)} has the same name: a server of both "
            "repositories loads neither, unless it has --model-namespacing=true"
        )
        yield model.file_finding("model-twice", "", said)


def twice(together: Sequence[Mapping[str, LintedModel]]) -> Iterator[tuple[LintedModel, list[LintedModel]]]:
    """Each model whose name other repositories have too, with those."""
    for models in together:
        for name, model in models.items():
            others = [other[name] for other in together if other is not models and name in other]
            if others:
                yield model, others
