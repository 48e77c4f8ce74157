"""Rooms and the arrows between them, drawn from the sources: no circle, none against the directions, no room
that is too full. import-linter holds the contracts between modules; this looks at folders as a reader does.
"""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from setuptools import find_packages

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("planner", "python_backend", "model_repo_generator", "ensembles", "ppipe", "benchmarks")
ORDER = {
    "planner": 0,
    "ensembles": 1,
    "python_backend": 2,
    "model_repo_generator": 2,
    "ppipe": 3,
    "benchmarks": 4,
}
"""An import goes to the same package, or to one with a smaller number."""
DATA_PLANE = {
    "compiled": 0,
    "scheduler": 1,
    "leases": 1,
    "wire": 2,
    "simulator": 3,
    "dispatcher": 3,
    "stage": 3,
    "cascade": 3,
    "triton": 4,
}
MOST_MODULES = 22
"""Beside each other in one folder of the product."""
LISTS = ("planner", "ppipe.commands")
"""Folders that are one list: the MILP's parts and their data; a file for each command."""


def modules() -> Iterator[tuple[str, ast.Module]]:
    """(dotted name, source) of every module of ours."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, ast.parse(path.read_text(encoding="utf-8"))


SOURCES = dict(modules())


def imports(tree: ast.Module, packages: Sequence[str] = PACKAGES) -> Iterator[str]:
    """Modules of ours that a source imports anywhere, inside functions too, by name or by a string of it."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in SOURCES else node.module for name in inner]
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            names = [arg.value for arg in node.args if isinstance(arg, ast.Constant)]
        yield from (name for name in names if name.partition(".")[0] in packages)


def room(module: str) -> str:
    """The folder that a module is in; a package's own __init__ is of that package."""
    is_package = (ROOT / module.replace(".", "/")).is_dir()
    return module if is_package else module.rpartition(".")[0]


ARROWS = {
    (room(module), room(imported))
    for module, tree in SOURCES.items()
    for imported in imports(tree)
    if room(module) != room(imported)
}


def test_packages_import_downwards_only() -> None:
    wrong = [
        f"{source} -> {target}"
        for source, target in sorted(ARROWS)
        if (a := source.partition(".")[0]) != (b := target.partition(".")[0]) and ORDER[a] <= ORDER[b]
    ]
    assert wrong == []


def test_processes_of_the_data_plane_do_not_know_each_other() -> None:
    def level(name: str) -> int:
        return DATA_PLANE[name.split(".")[1]]

    inside = [
        (source, target)
        for source, target in ARROWS
        if source.startswith("python_backend.") and target.startswith("python_backend.")
        if source.split(".")[1] != target.split(".")[1]
    ]
    assert [f"{source} -> {target}" for source, target in inside if level(source) <= level(target)] == []


def outside(name: str) -> str:
    """Rooms inside a room are looked at as one with it: a package may use its subpackages and they it."""
    return ".".join(name.split(".")[:2])


def test_the_simulator_knows_the_scheduler_alone_and_leases_stand_beside_the_wire() -> None:
    allowed = {"scheduler", "compiled"}
    wrong = [
        f"{source} -> {target}"
        for source, target in sorted(ARROWS)
        if source.startswith("python_backend.") and target.startswith("python_backend.")
        if (room := source.split(".")[1]) in ("simulator", "leases", "wire", "scheduler")
        if target.split(".")[1] not in {room, *allowed}
    ]
    assert wrong == []


def test_imports_are_absolute_so_that_they_can_be_drawn() -> None:
    relative = [
        module
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_the_product_imports_no_test_and_benchmarks_take_fixtures_alone() -> None:
    of_tests = {
        (module, name) for module, tree in SOURCES.items() for name in imports(tree, packages=("tests",))
    }
    assert [(a, b) for a, b in sorted(of_tests) if not a.startswith("benchmarks.")] == []
    assert [(a, b) for a, b in sorted(of_tests) if not b.startswith("tests.fixtures.")] == []
    fixtures = (ROOT / "tests" / "fixtures").rglob("*.py")
    users = [
        path for path in fixtures if list(imports(ast.parse(path.read_text()), packages=("benchmarks",)))
    ]
    assert users == []


def test_what_needs_a_tritonserver_lies_in_one_room() -> None:
    """The pages' commands are another: they need one here and there."""
    found = {path.parent for path in (ROOT / "tests").rglob("test_*.py") if "mark.live" in path.read_text()}
    own = {ROOT / "tests" / "structure"}  # this very file
    assert found - own == {ROOT / "tests" / "live", ROOT / "tests" / "docs"}


def test_there_is_no_circle_of_rooms() -> None:
    left = {(outside(a), outside(b)) for a, b in ARROWS}
    # A package's top folder and its rooms import each other: one room with several doors.
    left = {(a, b) for a, b in left if a != b and a.partition(".")[0] != b and b.partition(".")[0] != a}
    while left:
        targets = {b for _, b in left}
        leaves = targets - {a for a, _ in left}
        assert leaves, f"a circle among {sorted(left)}"
        left = {(a, b) for a, b in left if b not in leaves}


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "benchmarks"])
def test_no_room_is_too_full(package: str) -> None:
    counts: dict[str, int] = {}
    for module in SOURCES:
        if module.partition(".")[0] == package and not (ROOT / module.replace(".", "/")).is_dir():
            counts[room(module)] = counts.get(room(module), 0) + 1
    assert {name: n for name, n in counts.items() if n > MOST_MODULES and name not in LISTS} == {}


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Not even inside functions or for type checkers alone; a package's __init__ is no part of a circle."""
    direct = {module: set(imports(tree)) - {module} for module, tree in SOURCES.items()}
    files = {module for module in direct if not (ROOT / module.replace(".", "/")).is_dir()}
    try:
        TopologicalSorter({module: direct[module] & files for module in files}).prepare()
    except CycleError as circle:
        pytest.fail(f"{circle.args[0]}: {' -> '.join(circle.args[1])}")


def test_importing_the_product_imports_no_benchmark() -> None:
    users = [
        module
        for module, tree in SOURCES.items()
        if not module.startswith("benchmarks")
        and any(name.startswith("benchmarks") for name in imports(tree))
    ]
    assert users == []
    program = "import ppipe.cli, sys; assert not any(m.startswith('benchmarks') for m in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_the_wheel_holds_no_benchmark() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    include = settings["tool"]["setuptools"]["packages"]["find"]["include"]
    packaged = find_packages(str(ROOT), include=include)
    assert {"ppipe", "ppipe.serving", "python_backend.wire"} <= set(packaged)
    assert [name for name in packaged if name.partition(".")[0] in ("benchmarks", "tests")] == []


def test_a_class_name_means_one_thing_in_the_product() -> None:
    """Names that begin with an underscore are a module's own; Triton looks for TritonPythonModel."""
    places: dict[str, list[str]] = {}
    for module, tree in SOURCES.items():
        if not module.startswith("benchmarks"):
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places.setdefault(node.name, []).append(module)
    del places["TritonPythonModel"]
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
