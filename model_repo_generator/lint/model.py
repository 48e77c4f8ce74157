"""One model as the rules see it: its folder, its parsed configuration, and where each field is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2 as triton

from model_repo_generator.lint import backends, schema
from model_repo_generator.lint.codes import effect_of
from model_repo_generator.lint.finding import Finding
from model_repo_generator.lint.folders import CONFIG, LintedFolder, NotReadable
from model_repo_generator.lint.releases import SEEN, Release
from model_repo_generator.lint.text import Node, Path, path_text, read

_SAID_BY_PARSER = re.compile(r"^\d+:\d+ : (?:'.*': )?", re.DOTALL)
"""Where, and the whole line; we say where ourselves."""


@dataclass(frozen=True)
class Host:
    """What is known of the servers that will load the repository; None: not known, so not checked."""

    gpus: int | None = None
    backends: frozenset[str] | None = None
    auto_complete: bool = False
    """False: started with --disable-auto-complete-config, as PPipe's servers are."""
    agents: frozenset[str] | None = None
    """Names of repository agents."""
    utf8: bool = False
    """Whether the server's locale is UTF-8; in containers it mostly is not."""
    same_machine: bool = False
    """Whether absolute paths can be looked at here."""
    triton: Release = SEEN
    assumed: bool = False
    """Whether nobody said which release it is: then a fault that other releases do not have is a warning."""
    loads_all: bool = True
    """False: servers load the models that they are told to (--model-control-mode=explicit), no others."""
    namespacing: bool = False
    """Servers with --model-namespacing=true, which may have a name once in each repository."""


@dataclass(frozen=True)
class LintedModel:
    """`config` is Triton's ModelConfig, with name and backend filled in as the server fills them in.

    None: there is nothing to parse, or it does not parse.
    """

    folder: LintedFolder
    file: str
    config: Any
    tree: Node
    backend: str
    """'' for an ensemble, and where nothing tells."""
    host: Host
    completable: bool = False
    """Whether the backend may add tensors, and what they lack: nothing can be said of what is not there."""

    @property
    def name(self) -> str:
        """The folder's name: the server refuses any other."""
        return self.folder.name

    @property
    def is_ensemble(self) -> bool:
        """Whether it has steps or says that it has."""
        return self.config is not None and (
            self.config.platform == "ensemble" or self.config.HasField("ensemble_scheduling")
        )

    def finding(
        self, code: str, field: Path, message: str, line: int | None = None, source: str = ""
    ) -> Finding:
        """A fault of a field of config.pbtxt."""
        at = self.tree.line_of(field) if line is None else line
        return make_finding(
            code, self.name, self.file, at, path_text(field), message, source, self.host.triton
        )

    def file_finding(
        self, code: str, relative: str, message: str, line: int = 0, source: str = ""
    ) -> Finding:
        """A fault of another file or folder of the model."""
        file = f"{self.folder.shown}/{relative}" if relative else self.folder.shown
        return make_finding(code, self.name, file, line, "", message, source, self.host.triton)


def make_finding(
    code: str,
    model: str,
    file: str,
    line: int,
    field: str,
    message: str,
    source: str = "",
    release: Release = SEEN,
) -> Finding:
    """A finding whose level and effect are its code's on servers of a release."""
    effect, changed = effect_of(code, release)
    return Finding(
        level=effect.level,
        code=code,
        model=model,
        file=file,
        line=line,
        field=field,
        message=message,
        effect=effect,
        source=source or changed,
    )


def load(
    folder: LintedFolder, host: Host, config_file: str = CONFIG
) -> tuple[LintedModel, tuple[Finding, ...]]:
    """The model and what is wrong with the text of its configuration."""
    file = f"{folder.shown}/{config_file}"
    if config_file not in folder.files:
        message, findings = _without_config(folder, host)
        return _completed(LintedModel(folder, file, message, Node(name="", line=1), "", host)), findings
    try:
        raw = folder.read(config_file)
    except NotReadable as error:
        said = f"cannot be read here ({error.why}); a server that may not read it either refuses the model"
        return LintedModel(folder, file, None, Node(name="", line=1), "", host), (
            make_finding("unreadable", folder.name, file, 0, "", said),
        )
    text = raw.decode("utf-8", errors="replace")
    model = LintedModel(folder, file, triton.ModelConfig(), read(text), "", host)
    findings = tuple(_text_faults(model, raw, text))
    if any(finding.code == "syntax" for finding in findings):
        return replace(model, config=None), findings
    return _completed(model), findings


def _completed(model: LintedModel) -> LintedModel:
    """With what the server fills in."""
    if model.config is None:
        return model
    backend = backends.complete(model.config, model.folder, model.host.triton)
    completable = (
        model.host.auto_complete
        and not model.is_ensemble
        and backends.may_complete(model.config, backend, model.folder)
    )
    return replace(model, backend=backend, completable=completable)


def _without_config(folder: LintedFolder, host: Host) -> tuple[Any, tuple[Finding, ...]]:
    def found(code: str, message: str) -> tuple[Finding, ...]:
        return (make_finding(code, folder.name, f"{folder.shown}/{CONFIG}", 0, "", message),)

    if folder.unreadable.keys() & {"", CONFIG}:
        return None, ()  # which is found anyway
    if CONFIG in folder.folders:
        return None, found("config-folder", "is a folder; the server ends when it reads it")
    if not host.auto_complete:
        return None, found(
            "config-missing",
            "there is none, and a server with --disable-auto-complete-config needs one; "
            "give --auto-complete if yours completes configurations",
        )
    return triton.ModelConfig(), found(
        "config-completed", "there is none; the backend must complete all of it, which cannot be checked here"
    )


def _text_faults(model: LintedModel, raw: bytes, text: str) -> Iterator[Finding]:
    if raw.startswith(b"\xef\xbb\xbf"):
        yield model.finding("syntax", (), "begins with a byte order mark; save it as UTF-8 without one", 1)
        return
    unknown = list(schema.faults(model.tree, model.host.triton))
    try:
        text_format.Parse(text, model.config, allow_unknown_field=bool(unknown))
    except (text_format.ParseError, UnicodeEncodeError) as error:
        line = error.GetLine() if isinstance(error, text_format.ParseError) else None
        last = line or text.count("\n") + 1  # errors at the very end have no line of their own
        # What is read after an error is guesswork.
        unknown = [fault for fault in unknown if fault.line < last]
        yield model.finding("syntax", (), _SAID_BY_PARSER.sub("", str(error)).strip(), last)
    for fault in unknown:
        yield model.finding(fault.code, fault.path, fault.said, fault.line, fault.source)
    for name in ("parameters", "metric_tags", "cc_model_filenames"):
        yield from duplicate_keys(model, (), name)


def duplicate_keys(model: LintedModel, owner: Path, name: str) -> Iterator[Finding]:
    """Keys that one map has twice: the last one holds, without a word."""
    node = model.tree.at(owner)
    lines: dict[str, int] = {}
    for index, (key, _, line) in enumerate(node.entries(name) if node is not None else ()):
        if key in lines:
            said = f"key {key!r} is there twice (also on line {lines[key]}); only the last one holds"
            yield model.finding("duplicate-key", (*owner, name, index), said, line)
        lines[key] = line
