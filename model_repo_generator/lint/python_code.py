"""What a model.py of the Python backend says of itself, without running it."""

from __future__ import annotations

import ast
import warnings

CLASS = "TritonPythonModel"
EXECUTE = "execute"
COMPLETE = "auto_complete_config"
"""The method with which a Python model completes its configuration."""


def parse(code: bytes, name: str) -> ast.Module:
    """Raises SyntaxError or ValueError for what is not Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ast.parse(code, filename=name)


def has_class(tree: ast.Module) -> bool:
    """Whether anything gives the class's name a meaning; a star import may."""
    return any(_binds(node) for node in ast.walk(tree))


def classes_without_execute(tree: ast.Module) -> list[ast.ClassDef]:
    """Definitions of the class that surely have no method execute."""
    return [
        node
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.name == CLASS and not _may_have(node, EXECUTE)
    ]


def may_complete(tree: ast.Module) -> bool:
    """Whether the class completes configurations, as far as can be seen: what is inherited may."""
    found = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == CLASS]
    if not found:
        return has_class(tree)
    return any(_may_have(node, COMPLETE) for node in found)


def _binds(node: ast.AST) -> bool:
    if isinstance(node, ast.ClassDef):
        return node.name == CLASS
    if isinstance(node, ast.ImportFrom | ast.Import):
        return any((alias.asname or alias.name) in (CLASS, "*") for alias in node.names)
    return isinstance(node, ast.Name) and node.id == CLASS and isinstance(node.ctx, ast.Store)


def _may_have(node: ast.ClassDef, method: str) -> bool:
    """Whether a class has a method, or anything else that could give it one."""
    inherits = any(not (isinstance(base, ast.Name) and base.id == "object") for base in node.bases)
    if inherits or node.decorator_list or node.keywords:
        return True
    for each in node.body:
        if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef):
            if each.name == method:
                return True
        elif isinstance(each, ast.Assign | ast.AnnAssign):
            if _assigns(each, method):
                return True
        elif not isinstance(each, ast.Expr | ast.Pass | ast.ClassDef):
            return True
    return False


def _assigns(node: ast.Assign | ast.AnnAssign, method: str) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target]
    return any(not isinstance(target, ast.Name) or target.id == method for target in targets)
