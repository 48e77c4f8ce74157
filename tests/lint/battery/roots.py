"""What lies in the root of a repository, and several repositories: of servers that load all that is there."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.lint.battery.case import config, ensemble_text, python_model, step

M = python_model(config("m"), "m")
ENSEMBLE = {"e/config.pbtxt": ensemble_text(step("m"), name="e"), "e/1/": ""}


@dataclass(frozen=True)
class RootCase:
    """`repositories`: the files of each; `links` are made in the first, and lead where they say.

    `ends`: whether a server ends of it that is given all of them. `codes`: all that the linter must find.
    """

    name: str
    ends: bool
    codes: tuple[str, ...]
    repositories: tuple[Mapping[str, str], ...] = (M,)
    links: Mapping[str, str] = field(default_factory=dict)
    namespacing: bool = False

    def write(self, root: Path) -> list[Path]:
        """The repositories below `root`."""
        paths = [root / self.name / str(nth) for nth in range(len(self.repositories))]
        for path, files in zip(paths, self.repositories, strict=True):
            path.mkdir(parents=True)
            for name, text in files.items():
                target = path / name
                if name.endswith("/"):
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_text(text)
        for name, leads in self.links.items():
            os.symlink(leads, paths[0] / name)
        return paths


def beside(**files: str) -> tuple[Mapping[str, str], ...]:
    """The model and what else is in the repository; '__' is a slash, '_dot_' a dot."""
    named = {key.replace("_dot_", ".").replace("__", "/"): text for key, text in files.items()}
    return ({**M, **named},)


ROOT_CASES = (
    RootCase("only_models", False, ()),
    RootCase("files_beside", False, (), beside(README_dot_md="", _dot_hidden="")),
    RootCase("inside_a_model", False, (), beside(m___dot_git__HEAD="", m__docs__x="")),
    RootCase("hidden_folder", True, ("stray-folder",), beside(_dot_git__HEAD="")),
    RootCase("hidden_model", False, (), ({**M, **python_model(config(".k"), ".k")},)),
    RootCase("stray_folder", True, ("config-missing",), beside(reports__latest_dot_md="")),
    RootCase("dangling", True, ("dangling-link",), links={"gone": "/nowhere"}),
    RootCase("link_to_itself", True, ("dangling-link",), links={"loop": "loop"}),
    RootCase("dangling_in_model", True, ("dangling-link-inside",), links={"m/gone": "/nowhere"}),
    RootCase("dangling_version", True, ("dangling-link-inside",), links={"m/2": "/nowhere"}),
    RootCase("dangling_in_version", False, (), links={"m/1/gone": "/nowhere"}),
    RootCase("link_to_folder", False, (), links={"m/1/again": ".."}),
    RootCase("same_name", True, ("model-twice",), (M, M)),
    RootCase("same_name_namespacing", False, (), (M, M), namespacing=True),
    RootCase("ensemble_across", False, (), (ENSEMBLE, M)),
    RootCase("ensemble_across_namespacing", False, (), (ENSEMBLE, M), namespacing=True),
    RootCase("ensemble_own_first", False, (), ({**ENSEMBLE, **M}, M), namespacing=True),
    RootCase("ensemble_ambiguous", True, ("step-model",), (ENSEMBLE, M, M), namespacing=True),
    RootCase("one_empty", False, ("repository-empty",), (M, {"notes.txt": ""})),
)
