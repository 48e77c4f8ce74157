"""Say of each GPU class where its latencies come from, so that no figure passes for more than it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from planner.profile import LatencyTable, Profile, Source


def latency_sources(profile: Profile, gpus: Iterable[str]) -> Mapping[str, str]:
    """Per class 'measured', 'stated' or 'estimated, +-20%'; more than one where its models differ."""
    sources = {}
    for gpu in gpus:
        tables = [table for model in profile.models for table in model.tables if table.gpu == gpu]
        labels = dict.fromkeys(label for source in Source if (label := _label(source, tables)))
        if labels:
            sources[gpu] = "; ".join(labels)
    return sources


def estimates_note(sources: Mapping[str, str]) -> str:
    """'latencies of L4 (estimated, +-20%) ...' for the classes that were not measured; '' without any."""
    estimated = [f"{gpu} {label}" for gpu, label in sources.items() if Source.ESTIMATED.value in label]
    return f"latencies: {', '.join(estimated)}" if estimated else ""


def _label(source: Source, tables: Iterable[LatencyTable]) -> str:
    """The source's name, and the largest error that any of its tables is expected to have."""
    errors = [table.expected_error for table in tables if table.source is source]
    if not errors:
        return ""
    known = [error for error in errors if error is not None]
    return f"{source.value}, +-{max(known):.0%}" if known else source.value
