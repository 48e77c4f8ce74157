"""GraphLine graphs and stacked bars as pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ppipe.report.content import Label, Path, Picture, Rect, Shape

WIDTH, HEIGHT = 640.0, 300.0
LEFT, RIGHT, TOP, BOTTOM = 56.0, 16.0, 26.0, 40.0
BAR, GAP, NAME = 22.0, 10.0, 190.0
COLOURS = 8
MARK = 3.5


@dataclass(frozen=True)
class GraphLine:
    """`points`: (x, y) ascending in x; `style`: a class; `dots`: a mark at each point."""

    name: str
    points: tuple[tuple[float, float], ...]
    style: str
    dots: bool = False


@dataclass(frozen=True)
class Axis:
    """From `low` to `high`; `form`: how a tick is written."""

    name: str
    low: float
    high: float
    form: str = "{:g}"

    def share(self, value: float) -> float:
        """Place of a value on the axis, cut to it."""
        span = (self.high - self.low) or 1.0
        return min(1.0, max(0.0, (value - self.low) / span))

    def ticks(self) -> list[float]:
        """Five places."""
        return [self.low + (self.high - self.low) * step / 4 for step in range(5)]


def line_graph(
    title: str,
    words: str,
    lines: Sequence[GraphLine],
    x: Axis,
    y: Axis,
    marks: Mapping[str, float] | None = None,
) -> Picture:
    """`marks`: upright lines with a name."""

    def at(point: tuple[float, float]) -> tuple[float, float]:
        across = LEFT + x.share(point[0]) * (WIDTH - LEFT - RIGHT)
        return across, TOP + (1 - y.share(point[1])) * (HEIGHT - TOP - BOTTOM)

    shapes: list[Shape] = []
    for tick in y.ticks():
        across, down = at((x.low, tick))
        shapes.append(Path(f"M{across:.1f} {down:.1f}H{WIDTH - RIGHT:.1f}", "grid"))
        shapes.append(Label(LEFT - 6, down + 4, y.form.format(tick), "small", "end"))
    for tick in x.ticks():
        across, _ = at((tick, y.low))
        shapes.append(Label(across, HEIGHT - BOTTOM + 16, x.form.format(tick), "small", "middle"))
    shapes.append(Label((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x.name, "small", "middle"))
    shapes.append(Label(6, 14, y.name, "small"))
    for name, value in (marks or {}).items():
        across, _ = at((value, y.low))
        shapes.append(Path(f"M{across:.1f} {TOP}V{HEIGHT - BOTTOM}", "mark", f"{name}: {value:g}"))
        shapes.append(Label(across, TOP - 4, name, "small", "end" if across > WIDTH / 2 else "start"))
    for number, line in enumerate(lines):
        shapes += _line(line, [at(point) for point in line.points], x, y)
        down = HEIGHT - BOTTOM - 12 - 15 * (len(lines) - 1 - number)
        shapes.append(Label(LEFT + 10, down, f"— {line.name}", f"legend t{line.style.removeprefix('l')}"))
    return Picture(title, words, WIDTH, HEIGHT, tuple(shapes))


def _line(line: GraphLine, places: Sequence[tuple[float, float]], x: Axis, y: Axis) -> list[Shape]:
    shapes: list[Shape] = []
    if len(places) > 1:
        path = "M" + "L".join(f"{across:.1f} {down:.1f}" for across, down in places)
        shapes.append(Path(path, f"line {line.style}", line.name))
    if line.dots:
        for (across, down), (value, height) in zip(places, line.points, strict=True):
            hint = f"{line.name}: {y.form.format(height)} at {x.form.format(value)}"
            corner = (across - MARK, down - MARK)
            shapes.append(Rect(*corner, 2 * MARK, 2 * MARK, f"dot {line.style.replace('l', 'c')}", hint))
    return shapes


def stacked_bars(
    title: str,
    words: str,
    bars: Sequence[tuple[str, Sequence[tuple[str, float]], float]],
    unit: str = "ms",
    whole_is: str = "SLO",
) -> Picture:
    """A bar for each (name, parts, whole), by default of milliseconds of an SLO; what the parts leave of the
    whole is empty.
    """
    names = list(dict.fromkeys(part for _, parts, _ in bars for part, _ in parts))
    longest = max([1e-9, *(max(whole, sum(ms for _, ms in parts)) for _, parts, whole in bars)])
    scale = (WIDTH - NAME - RIGHT) / longest
    shapes: list[Shape] = []
    for row, (name, parts, whole) in enumerate(bars):
        top = 8 + row * (BAR + GAP)
        shown = name if len(name) <= 30 else name[:29] + "…"
        shapes.append(Label(NAME - 8, top + BAR / 2 + 4, shown, "small", "end"))
        shapes.append(Rect(NAME, top, whole * scale, BAR, "whole", f"{name}: {whole_is} {whole:g} {unit}"))
        across = NAME
        for part, ms in parts:
            hint = f"{name}: {part} {ms:.2f} {unit}, {ms / whole if whole else 0:.0%} of the {whole_is}"
            shapes.append(Rect(across, top, ms * scale, BAR, f"part c{names.index(part) % COLOURS}", hint))
            across += ms * scale
    down = 8 + len(bars) * (BAR + GAP) + 14
    across = 8.0
    for number, part in enumerate(names):
        if across > WIDTH - 150:
            across, down = 8.0, down + 18
        shapes.append(Rect(across, down - 9, 10, 10, f"part c{number % COLOURS}"))
        shapes.append(Label(across + 14, down, part, "small"))
        across += 24 + 6.6 * len(part)
    return Picture(title, words, WIDTH, down + 14, tuple(shapes))
