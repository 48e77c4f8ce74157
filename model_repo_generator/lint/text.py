"""Protobuf text -> a tree of fields with line numbers, for messages only; protobuf's own parser judges.

Rules
- Never raises: whatever cannot be understood is skipped, and what follows is read as well as can be.
- Every occurrence of a field is a node of its own; `dims: [ 1, 2 ]` makes two, as two lines of dims would.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

Path = tuple[str | int, ...]
"""Field names, each followed by its occurrence where there may be several: ('input', 0, 'dims')."""

_TOKEN = re.compile(
    r"""(?P<space>[\s]+|\#[^\n]*)
      | (?P<string>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<word>[^\s{}<>\[\]:;,"'\#]+)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
_OPEN = {"{": "}", "<": ">"}


@dataclass(frozen=True)
class Token:
    """A string, word or punctuation mark and the line it is on, counted from 1."""

    kind: str
    text: str
    line: int


@dataclass
class Node:
    """One occurrence of a field: a scalar as written, or a message of fields."""

    name: str
    line: int
    scalar: str | None = None
    fields: list[Node] = field(default_factory=list)

    def all(self, name: str) -> list[Node]:
        """The occurrences of one field, in written order."""
        return [node for node in self.fields if node.name == name]

    def line_of(self, path: Path) -> int:
        """The line of a field, or of the nearest thing above it that is written."""
        node = self
        for name, nth in _steps(path):
            found = node.all(name)
            if not found:
                break
            node = found[nth if nth < len(found) else 0]
        return node.line

    def at(self, path: Path) -> Node | None:
        """The very node at a path; None where it is not written."""
        node = self
        for name, nth in _steps(path):
            found = node.all(name)
            if nth >= len(found):
                return None
            node = found[nth]
        return node

    def entries(self, name: str) -> list[tuple[str, str, int]]:
        """A map field as (key, scalar value, line), in written order, with keys that are there twice."""
        return [(_scalar(node, "key"), _scalar(node, "value"), node.line) for node in self.all(name)]


def _steps(path: Path) -> Iterator[tuple[str, int]]:
    """Each field of a path with the number of its occurrence, 0 where none is given."""
    for index, name in enumerate(path):
        if isinstance(name, str):
            nth = path[index + 1] if index + 1 < len(path) else 0
            yield name, nth if isinstance(nth, int) else 0


def path_text(path: Path) -> str:
    """input[0].dims"""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a text, comments left out."""
    line = 1
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup or "mark"
        if kind != "space":
            yield Token(kind, match.group(), line)
        line += match.group().count("\n")


def read(text: str) -> Node:
    """The whole message, a node without a name on line 1."""
    root = Node(name="", line=1)
    _Reader(list(tokens(text))).message(root, None)
    return root


class _Reader:
    """Reads tokens one after another; not reused."""

    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._at = 0

    def message(self, owner: Node, end: str | None) -> None:
        while (token := self._next()) is not None:
            if token.text == end and token.kind == "mark":
                return
            if token.kind == "word":
                self._field(owner, token)

    def _field(self, owner: Node, name: Token) -> None:
        self._skip(":")
        token = self._peek()
        if token is None:
            return
        if token.text == "[" and token.kind == "mark":
            self._at += 1
            self._list(owner, name.text)
        else:
            self._value(owner, name.text, name.line)

    def _list(self, owner: Node, name: str) -> None:
        while (token := self._peek()) is not None:
            if token.kind == "mark" and token.text not in _OPEN:
                self._at += 1
                if token.text == "]":
                    return
                continue
            self._value(owner, name, token.line)

    def _value(self, owner: Node, name: str, line: int) -> None:
        token = self._peek()
        if token is None:
            return
        if token.kind == "mark":
            if token.text in _OPEN:
                self._at += 1
                node = Node(name=name, line=line)
                owner.fields.append(node)
                self.message(node, _OPEN[token.text])
            return
        self._at += 1
        value = _plain(token)
        while token.kind == "string" and (more := self._peek()) is not None and more.kind == "string":
            self._at += 1
            value += _plain(more)
        owner.fields.append(Node(name=name, line=line, scalar=value))

    def _peek(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> Token | None:
        token = self._peek()
        self._at += 1
        return token

    def _skip(self, mark: str) -> None:
        token = self._peek()
        if token is not None and token.text == mark and token.kind == "mark":
            self._at += 1


def _plain(token: Token) -> str:
    if token.kind != "string":
        return token.text
    if "\\" not in token.text:
        return token.text[1:-1]
    try:
        return str(ast.literal_eval(token.text))
    except (SyntaxError, ValueError):
        return token.text[1:-1]


def _scalar(node: Node, name: str) -> str:
    found = node.all(name)
    return (found[-1].scalar or "") if found else ""
