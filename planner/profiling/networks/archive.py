"""What of a .pt2 file would run its maker's code when torch opens it.

torch.export.load unpickles what the archive says is pickled and evaluates the expressions of sizes, and the
graph names the functions that are called. Of a program as torch.export.save writes it, tensors are raw,
expressions are arithmetic, and functions are registered operators.

Rules
- The archive is read by torch's own reader: another one might see other entries in it.
- What is not known to be harmless is named. Only the entries that torch reads for a program are there.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from typing import Any

import torch
from torch.export.pt2_archive._package import PT2ArchiveReader
from torch.export.pt2_archive.constants import (
    CONSTANTS_DIR,
    MODELS_DIR,
    SAMPLE_INPUTS_DIR,
    TENSOR_CONSTANT_FILENAME_PREFIX,
    WEIGHTS_DIR,
)
from torch.utils._sympy import functions as torch_functions

_HARMLESS = re.compile(
    r"archive_(format|version)|byteorder|\.data/.*|extra/.*|\.format_version|\.storage_alignment"
)
_PAYLOAD = re.compile(r"(weight|tensor)_[0-9]+")
_CONFIG = re.compile(r"[^/]+_(weights|constants)_config\.json")
_EXPRESSION = re.compile(r"(?:[A-Za-z]\w*|[0-9]+(?:\.[0-9]+)?|[ ()+*/,<>=!&|~-])*")
_LEAF = re.compile(
    r"Symbol\('[A-Za-z]\w*'(?:, [a-z]+=(?:True|False))*\)|Float\('[0-9.e+-]+', precision=[0-9]+\)"
)
_ARITHMETIC = frozenset(
    (
        *(
            "Add",
            "Mul",
            "Pow",
            "Mod",
            "Abs",
            "Max",
            "Min",
            "floor",
            "ceiling",
            "Integer",
            "Rational",
            "Float",
        ),
        *("Equality", "Unequality", "StrictLessThan", "StrictGreaterThan", "LessThan", "GreaterThan"),
        *("Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "ExprCondPair"),
        *(one for one in torch_functions.__all__ if one[:1].isupper()),
    )
)
"""Functions that torch writes into expressions of sizes."""
_OPERATOR = re.compile(
    r"torch\.ops(\.[A-Za-z_]\w*){2,}|_operator\.[a-z_]+|math\.[a-z0-9_]+|torch\.sym_[a-z]+|torch\.(float|int)\w*"
)


def code_in(content: bytes) -> str:
    """The first thing that would run code, '' where there is none. Raises what torch's reader does where it
    cannot read the archive.
    """
    with PT2ArchiveReader(io.BytesIO(content)) as reader:
        return next(_all(reader), "")


def _all(reader: PT2ArchiveReader) -> Iterator[str]:
    for name in reader.get_file_names():
        folder, _, rest = name.rpartition("/")
        if name.startswith(SAMPLE_INPUTS_DIR):
            yield from _of_sample(name, reader.read_bytes(name))
        elif f"{folder}/" == MODELS_DIR:
            yield from _of_graph(json.loads(reader.read_string(name)))
        elif f"{folder}/" in (WEIGHTS_DIR, CONSTANTS_DIR) and _CONFIG.fullmatch(rest):
            yield from _of_payloads(json.loads(reader.read_string(name)))
        elif f"{folder}/" in (WEIGHTS_DIR, CONSTANTS_DIR) and _PAYLOAD.fullmatch(rest):
            continue
        elif not _HARMLESS.fullmatch(name):
            yield f"holds {name}, which a program has not"


def _of_sample(name: str, content: bytes) -> Iterator[str]:
    try:
        if content:
            torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # torch would go on and unpickle whatever it is
        yield f"holds {name}, which is more than tensors"


def _of_payloads(config: Any) -> Iterator[str]:
    for name, payload in config["config"].items():
        path = payload["path_name"]
        plain = path.startswith(("weight_", TENSOR_CONSTANT_FILENAME_PREFIX))
        if payload["use_pickle"] or not plain:
            yield f"holds {name} as a pickled object"


def _of_graph(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for each in value:
            yield from _of_graph(each)
    if not isinstance(value, dict):
        return
    for key, each in value.items():
        if key == "expr_str" and not _is_arithmetic(str(each)):
            yield f"has the size {str(each)[:60]!r}"
        elif (
            key == "target" and isinstance(each, str) and "inputs" in value and not _OPERATOR.fullmatch(each)
        ):
            yield f"calls {each[:60]}"
        else:
            yield from _of_graph(each)


def _is_arithmetic(expression: str) -> bool:
    expression = _LEAF.sub("s", expression)
    if not _EXPRESSION.fullmatch(expression) or "__" in expression:
        return False
    called = re.findall(r"([A-Za-z]\w*) *\(", expression)
    return set(called) <= _ARITHMETIC
