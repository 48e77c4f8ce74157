"""`ppipe lint DIR...`. Exit status 0: no errors; 1: errors found; 2: nothing could be linted."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from model_repo_generator.lint.engine import Context, lint
from model_repo_generator.lint.finding import Finding, Level
from model_repo_generator.lint.folders import NotReadable
from model_repo_generator.lint.model import Host
from model_repo_generator.lint.releases import READ, RECOMMENDED, Release, UnknownRelease, parse
from planner import serial
from planner.deployment import DeploymentError, load_deployment
from planner.profile import Profile

CLEAN, FAULTY, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Lint and print; the exit status. Raises SystemExit(2) for a wrong command line."""
    options = _parser().parse_args(argv)
    try:
        findings = lint(options.directory, options.manifest, _context(options))
    except (NotReadable, UnknownRelease, serial.FormatError, DeploymentError, OSError) as error:
        print(f"lint: {error}", file=sys.stderr)
        return UNUSABLE
    print(as_json(findings) if options.json else as_text(findings))
    return exit_code(findings, strict=options.strict)


def exit_code(findings: Sequence[Finding], *, strict: bool = False) -> int:
    """`strict`: warnings fail too."""
    return FAULTY if any(strict or finding.level is Level.ERROR for finding in findings) else CLEAN


def as_json(findings: Sequence[Finding]) -> str:
    """An object with counts and the findings in order."""
    plain = {
        "errors": _count(findings, Level.ERROR),
        "warnings": _count(findings, Level.WARNING),
        "findings": [finding.to_plain() for finding in findings],
    }
    return json.dumps(plain, indent=1, ensure_ascii=False)


def as_text(findings: Sequence[Finding]) -> str:
    """A line for each, and how many there are."""
    errors, warnings = _count(findings, Level.ERROR), _count(findings, Level.WARNING)
    total = f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}"
    return "\n".join([*(finding.to_text() for finding in findings), total])


def _count(findings: Sequence[Finding], level: Level) -> int:
    return sum(finding.level is level for finding in findings)


def _context(options: argparse.Namespace) -> Context:
    host = Host(
        gpus=options.gpus,
        backends=frozenset(options.backend) if options.backend else None,
        auto_complete=options.auto_complete,
        utf8=options.utf8,
        triton=_release(options),
        assumed=not options.triton,
        loads_all=not options.explicit,
        namespacing=options.model_namespacing,
    )
    cluster = load_deployment(options.deployment).to_cluster() if options.deployment else None
    profile = serial.load(Profile, options.profile) if options.profile else None
    return Context(
        host=host,
        cluster=cluster,
        profile=profile,
        config_name=options.model_config_name,
        deployment=str(options.deployment or ""),
        client_shm=options.client_shm,
    )


def _release(options: argparse.Namespace) -> Release:
    """Raises UnknownRelease."""
    release = parse(options.triton) if options.triton else RECOMMENDED
    if release > READ:
        print(
            f"lint: Triton {release} ({release.container}) is newer than what was read for these rules: "
            f"{READ} ({READ.container})",
            file=sys.stderr,
        )
    return release


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ppipe lint",
        description="Check a Triton model repository, or a generated folder, without a server.",
    )
    add = parser.add_argument
    add(
        "directory",
        type=Path,
        nargs="+",
        metavar="DIR",
        help="model repository, or folder that ppipe generate wrote; several: repositories of one server",
    )
    add("--json", action="store_true", help="findings as JSON")
    add("--strict", action="store_true", help="warnings fail too")
    add("--manifest", type=Path, help="deployment.json; looked for in and above the folder unless given")
    add("--deployment", type=Path, help="deployment.yaml: GPU counts and memory")
    add("--profile", type=Path, help="profile.json: memory of stages")
    add("--gpus", type=int, help="GPUs of each server; not checked unless given")
    add("--backend", action="append", help="a backend that the servers have; may be repeated")
    add("--auto-complete", action="store_true", help="servers complete configurations (Triton's default)")
    add("--utf8", action="store_true", help="servers run in a UTF-8 locale")
    add("--explicit", action="store_true", help="servers load only what they are told to (explicit control)")
    add("--model-namespacing", action="store_true", help="servers have --model-namespacing=true")
    add("--client-shm", action="store_true", help="clients register shared memory")
    add(
        "--triton",
        default="",
        metavar="VERSION",
        help="release of the servers, such as 24.10 or 2.51 (default: 26.07, the oldest recommended one)",
    )
    add("--model-config-name", default="", help="as given to tritonserver: configs/NAME.pbtxt wins")
    return parser


if __name__ == "__main__":
    sys.exit(main())
