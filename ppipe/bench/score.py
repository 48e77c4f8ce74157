"""Counts and percentiles of a run. Drops, lates and errors all count against attainment."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ppipe.bench.outcome import Fate, FrameResult

_KINDS_KEPT = 8


@dataclass(frozen=True)
class Score:
    """A run in numbers. Percentiles are of answered frames; send_lag is how late the client itself sent."""

    requests: int
    offered_rps: float
    answered: int
    unanswered: int
    mismatched: int
    failed: int
    max_abs_error: float
    attainment: float
    goodput_rps: float
    late: int
    drops: Mapping[str, int] = field(default_factory=dict)
    errors: Mapping[str, int] = field(default_factory=dict)
    compared: int = 0
    """Answers that were held against a reference; mismatched and max_abs_error are of these."""
    superseded: int = 0
    """Frames that a newer one of their stream made worthless; attainment is of the others."""
    partial: int = 0
    """Frames of cascades that were answered with something missing; they count as not served."""
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    send_lag_p99_ms: float = 0.0
    send_lag_max_ms: float = 0.0


def score(outcomes: Sequence[FrameResult], slo_us: Mapping[str, int], seconds: float) -> Score:
    """`seconds`: how long the workload took as a process. Raises ValueError without outcomes."""
    if not outcomes:
        raise ValueError("no requests were sent, so there is nothing to score")
    fates = Counter(outcome.fate for outcome in outcomes)
    answered = [outcome for outcome in outcomes if outcome.fate is Fate.ANSWERED]
    good = sum(outcome.is_good(slo_us[outcome.model]) for outcome in outcomes)
    wanted = len(outcomes) - fates[Fate.SUPERSEDED]
    lags_ms = np.array([outcome.sent_us - outcome.due_us for outcome in outcomes]) / 1e3
    return Score(
        requests=len(outcomes),
        offered_rps=len(outcomes) / seconds,
        answered=len(answered),
        unanswered=fates[Fate.UNANSWERED],
        mismatched=sum(not outcome.matched for outcome in answered),
        failed=fates[Fate.FAILED],
        max_abs_error=max((outcome.abs_error for outcome in answered), default=0.0),
        attainment=good / wanted if wanted else 1.0,
        goodput_rps=good / seconds,
        late=sum(outcome.latency_us > slo_us[outcome.model] for outcome in answered),
        compared=sum(outcome.compared for outcome in answered),
        superseded=fates[Fate.SUPERSEDED],
        partial=fates[Fate.PARTIAL],
        drops=_reasons(outcomes, Fate.DROPPED),
        errors=_reasons(outcomes, Fate.FAILED),
        **_percentiles_ms(answered),
        send_lag_p99_ms=float(np.percentile(lags_ms, 99)),
        send_lag_max_ms=float(lags_ms.max()),
    )


def score_by_model(
    outcomes: Sequence[FrameResult], slo_us: Mapping[str, int], seconds: float
) -> dict[str, Score]:
    """A score per model."""
    models = sorted({outcome.model for outcome in outcomes})
    return {
        model: score([outcome for outcome in outcomes if outcome.model == model], slo_us, seconds)
        for model in models
    }


def _reasons(outcomes: Sequence[FrameResult], fate: Fate) -> dict[str, int]:
    counts = Counter(outcome.reason for outcome in outcomes if outcome.fate is fate)
    return dict(counts.most_common(_KINDS_KEPT))


def _percentiles_ms(answered: Sequence[FrameResult]) -> dict[str, float]:
    if not answered:
        return {}
    latencies_ms = np.array([outcome.latency_us for outcome in answered]) / 1e3
    return {f"p{percent}_ms": float(np.percentile(latencies_ms, percent)) for percent in (50, 95, 99)}
