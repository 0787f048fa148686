"""Small plots as inline SVG: pure functions from numbers to text, without a plotting library."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Protocol


class Interval(Protocol):
    """A value with its confidence interval; a `Metric` is one."""

    value: float
    lower: float
    upper: float


@dataclass(frozen=True)
class Box:
    """An axis-parallel rectangle in SVG units, y pointing down."""

    left: float
    top: float
    right: float
    bottom: float

    def overlaps(self, other: Box) -> bool:
        """Say whether the two rectangles share an area."""
        return (
            self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom
        )

    def inside(self, other: Box) -> bool:
        """Say whether this rectangle lies within the other."""
        return (
            other.left <= self.left
            and self.right <= other.right
            and other.top <= self.top
            and self.bottom <= other.bottom
        )


@dataclass(frozen=True)
class Style:
    """How a group is drawn. Groups differ in shape and not in colour alone."""

    color: str
    shape: str


# Colours of Okabe and Ito (2008), which stay distinct under every common colour blindness.
WORLD_STYLES = {
    "clean": Style("#0072b2", "circle"),
    "asis": Style("#5f6b76", "square"),
    "attacked": Style("#d55e00", "diamond"),
}
OTHER_STYLES = (Style("#009e73", "triangle"), Style("#cc79a7", "circle"), Style("#e69f00", "square"))
INK, MUTED, GRID, BAND = "#1f2933", "#5f6b76", "#dfe4e9", "#f5f7f9"
FONT = 12
CHARACTER = 0.58  # mean width of a character as a share of the font size, on the safe side for system fonts
LONGEST_LABEL = 28


def interval_plot(
    rows: Iterable[tuple[str, Interval, str]],
    *,
    title: str,
    axis_label: str,
    references: Mapping[str, float] | None = None,
    width: int = 760,
) -> str:
    """Draw dots with intervals, one line per label and group, and return an inline `<svg>`.

    Args:
        rows: label (a model), interval, and group (a world). Rows of one label stand together, in order of appearance.
        title: the accessible title.
        axis_label: what the horizontal axis shows.
        references: group -> value of the original, drawn as a dashed vertical line in the colour of the group.
        width: of the drawing in SVG units; on the page it scales with its column.

    Values that are not finite are drawn as the words "not measured".
    """
    rows = list(rows)
    references = {group: value for group, value in (references or {}).items() if math.isfinite(value)}
    labels = list(dict.fromkeys(label for label, _, _ in rows))
    groups = list(dict.fromkeys(group for _, _, group in rows))
    styles = _styles(groups)
    left = 20 + max([_width(_short(label)) for label in labels], default=60)
    right, top, line, gap = width - 58, 34, 17, 12
    ticks = nice_ticks([*_ends(interval for _, interval, _ in rows), *references.values()])
    to_x = _scale(ticks, left, right)
    body: list[str] = []
    y = float(top)
    for position, label in enumerate(labels):
        members = [(interval, group) for name, interval, group in rows if name == label]
        height = gap + line * len(members)
        if position % 2 == 0:
            body.append(f'<rect x="0" y="{y:.1f}" width="{width}" height="{height}" fill="{BAND}"/>')
        body.append(_text(left - 10, y + height / 2 + 4, _short(label), anchor="end", weight=600, tip=label))
        for index, (interval, group) in enumerate(members):
            center = y + gap / 2 + line * (index + 0.5)
            body.append(_dot_and_interval(interval, label, group, styles[group], to_x, center, left, width))
        y += height
    lines = [
        f'<line x1="{to_x(value):.1f}" x2="{to_x(value):.1f}" y1="{top}" y2="{y:.1f}" stroke="{styles[group].color}" '
        f'stroke-width="1.2" stroke-dasharray="5 4" opacity="0.75"><title>original, {escape(group)}: {value:.3f}'
        "</title></line>"
        for group, value in references.items()
        if group in styles
    ]
    bands, marks = [part for part in body if part.startswith("<rect")], [p for p in body if not p.startswith("<rect")]
    axis = _horizontal_axis(ticks, to_x, top, y, axis_label, (left + right) / 2)
    content = [*bands, axis, *lines, *marks, _legend(groups, styles, left, bool(lines))]
    return _svg(width, y + 44, title, content)


def trade_off_plot(
    points: Iterable[tuple[str, Interval, Interval]],
    *,
    title: str,
    x_label: str = "accuracy, clean test set",
    y_label: str = "accuracy, attacked test set",
    reference: str | None = "original",
    best: str | None = None,
    names: Mapping[str, str] | None = None,
    width: int = 620,
    height: int = 430,
) -> str:
    """Draw one labelled point per model, its two intervals as a thin cross, and return an inline `<svg>`.

    Args:
        points: label, interval along x, interval along y. Points that are not finite are named below the plot.
        title: the accessible title.
        x_label: what the horizontal axis shows.
        y_label: what the vertical axis shows.
        reference: the label of the model under audit, drawn as a diamond.
        best: the label of the best correction, drawn with a ring.
        names: label -> what stands at its point instead, such as a number.
        width: of the drawing in SVG units.
        height: of the drawing in SVG units.
    """
    points = list(points)
    shown = [(label, x, y) for label, x, y in points if math.isfinite(x.value) and math.isfinite(y.value)]
    missing = [label for label, x, y in points if not (math.isfinite(x.value) and math.isfinite(y.value))]
    area = Box(64, 14, width - 24, height - 50)
    x_ticks = nice_ticks(_ends(x for _, x, _ in shown))
    y_ticks = nice_ticks(_ends(y for _, _, y in shown))
    to_x, to_y = _scale(x_ticks, area.left, area.right), _scale(y_ticks, area.bottom, area.top)
    content = [_frame(area, x_ticks, y_ticks, to_x, to_y, x_label, y_label), _diagonal(x_ticks, y_ticks, to_x, to_y)]
    content += [_cross(x, y, _point_style(label, reference).color, to_x, to_y) for label, x, y in shown]
    for label, x, y in shown:
        ring = f'<circle cx="{to_x(x.value):.1f}" cy="{to_y(y.value):.1f}" r="9" fill="none" stroke="{INK}"/>'
        content.append(ring if label == best else "")
        tip = f"{label}: {x_label} {_figures(x)}; {y_label} {_figures(y)}"
        content.append(_marker(to_x(x.value), to_y(y.value), _point_style(label, reference), tip))
    centers = [(to_x(x.value), to_y(y.value)) for _, x, y in shown]
    texts = [_short((names or {}).get(label, label)) for label, _, _ in shown]
    lines = [_cross_box(x, y, to_x, to_y) for _, x, y in shown]
    boxes = place_labels(centers, texts, area, obstacles=[box for pair in lines for box in pair])
    for (label, _, _), text, center, box in zip(shown, texts, centers, boxes, strict=True):
        content.append(_leader(center, box))
        content.append(_text(box.left + 2, box.bottom - 4, text, weight=600 if label == best else 400, tip=label))
    if missing:
        content.append(_text(area.left, height - 2, "not measured: " + ", ".join(missing), color=MUTED))
    return _svg(width, height + (6 if missing else 0), title, content)


def bar(share: float, title: str, *, color: str = "#0072b2", width: int = 120, height: int = 8) -> str:
    """Draw a share in [0, 1] as a small bar and return an inline `<svg>`; other values are cut to that range."""
    filled = width * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    content = [
        f'<rect width="{width}" height="{height}" rx="2" fill="{GRID}"/>',
        f'<rect width="{filled:.1f}" height="{height}" rx="2" fill="{color}"/>',
    ]
    return _svg(width, height, title, content, css="bar")


def nice_ticks(values: Sequence[float], target: int = 6) -> list[float]:
    """Return ascending round numbers, with steps of 1, 2 or 5 times a power of ten, that enclose all finite values."""
    finite = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if high - low < 1e-9:
        low, high = low - 0.05, high + 0.05
    raw = (high - low) / target
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    digits = max(0, -math.floor(math.log10(step) + 1e-9))
    return [round(index * step, digits) for index in range(first, last + 1)]


def place_labels(
    centers: Sequence[tuple[float, float]], labels: Sequence[str], area: Box, obstacles: Sequence[Box] = ()
) -> list[Box]:
    """Find for each point a place for its label that covers no other label and no point, as near as possible.

    Greedy, in the order of the points, over rings of growing radius. Among the places within reach the first that
    covers no obstacle (a line, say) is preferred, but an obstacle may be covered; when the plot is full, the label
    stands at its point all the same. Returns one box per label, in SVG units.
    """
    taken = [Box(x - 9, y - 9, x + 9, y + 9) for x, y in centers]
    placed: list[Box] = []
    for (x, y), label in zip(centers, labels, strict=True):
        candidates = [_label_box(x, y, _width(label) + 4, radius, angle) for radius, angle in _rings()]
        free = [
            box for box in candidates if box.inside(area) and not any(box.overlaps(other) for other in taken + placed)
        ]
        clear = (box for box in free if not any(box.overlaps(other) for other in obstacles))
        placed.append(next(clear, free[0] if free else candidates[0]))
    return placed


def _rings() -> list[tuple[float, float]]:
    # Right of the point first, where one reads on, then left, then the other directions; y points down.
    angles = [0, 180, -45, 45, -135, 135, -90, 90, -20, 20, -160, 160, -70, 70, -110, 110]
    return [
        (radius, math.radians(angle)) for radius in (12, 20, 32, 46, 62, 80, 100, 125, 150, 180) for angle in angles
    ]


def _label_box(x: float, y: float, width: float, radius: float, angle: float) -> Box:
    height = FONT + 4
    anchor_x, anchor_y = x + radius * math.cos(angle), y + radius * math.sin(angle)
    left = anchor_x - width / 2 * (1 - math.cos(angle))
    top = anchor_y - height / 2 * (1 - math.sin(angle))
    return Box(left, top, left + width, top + height)


def _leader(center: tuple[float, float], box: Box) -> str:
    x, y = center
    near_x, near_y = min(max(x, box.left), box.right), min(max(y, box.top), box.bottom)
    beside = near_y == y and abs(near_x - x) < 16
    if beside:
        return ""
    return (
        f'<line x1="{x:.1f}" y1="{y:.1f}" x2="{near_x:.1f}" y2="{near_y:.1f}" stroke="{MUTED}" stroke-width="0.7" '
        'opacity="0.7"/>'
    )


def _frame(area: Box, x_ticks, y_ticks, to_x, to_y, x_label: str, y_label: str) -> str:
    parts = [_horizontal_axis(x_ticks, to_x, area.top, area.bottom, x_label, (area.left + area.right) / 2)]
    for tick in y_ticks:
        y = to_y(tick)
        parts.append(f'<line x1="{area.left}" x2="{area.right}" y1="{y:.1f}" y2="{y:.1f}" stroke="{GRID}"/>')
        parts.append(_text(area.left - 8, y + 4, _tick_text(tick, y_ticks), anchor="end", color=MUTED))
    middle = (area.top + area.bottom) / 2
    parts.append(
        f'<text transform="translate(16 {middle:.1f}) rotate(-90)" text-anchor="middle" fill="{INK}">'
        f"{escape(y_label)}</text>"
    )
    return "".join(parts)


def _diagonal(x_ticks, y_ticks, to_x, to_y) -> str:
    low, high = max(x_ticks[0], y_ticks[0]), min(x_ticks[-1], y_ticks[-1])
    if low >= high:
        return ""
    return (
        f'<line x1="{to_x(low):.1f}" y1="{to_y(low):.1f}" x2="{to_x(high):.1f}" y2="{to_y(high):.1f}" '
        f'stroke="{MUTED}" stroke-dasharray="2 4"><title>equally accurate in both worlds</title></line>'
    )


def _horizontal_axis(ticks, to_x, top: float, bottom: float, label: str, middle: float) -> str:
    parts = []
    for tick in ticks:
        x = to_x(tick)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{bottom:.1f}" stroke="{GRID}"/>')
        parts.append(_text(x, bottom + 17, _tick_text(tick, ticks), anchor="middle", color=MUTED))
    parts.append(_text(middle, bottom + 37, label, anchor="middle"))
    return "".join(parts)


def _dot_and_interval(interval, label, group, style: Style, to_x, y: float, left: float, width: int) -> str:
    if not math.isfinite(interval.value):
        return _text(left + 6, y + 4, f"{group}: not measured", color=MUTED)
    line = _segment(to_x, interval.lower, interval.upper, y, style.color)
    marker = _marker(to_x(interval.value), y, style, f"{label}, {group}: {_figures(interval)}")
    return line + marker + _text(width - 8, y + 4, f"{interval.value:.3f}", anchor="end", weight=600)


def _segment(to_x, lower: float, upper: float, y: float, color: str) -> str:
    if not (math.isfinite(lower) and math.isfinite(upper)):
        return ""
    x1, x2 = to_x(lower), to_x(upper)
    return (
        f'<path d="M{x1:.1f} {y:.1f}H{x2:.1f}M{x1:.1f} {y - 3:.1f}v6M{x2:.1f} {y - 3:.1f}v6" stroke="{color}" '
        'stroke-width="1.6" fill="none"/>'
    )


def _cross(x: Interval, y: Interval, color: str, to_x, to_y) -> str:
    path = ""
    if math.isfinite(x.lower) and math.isfinite(x.upper):
        path += f"M{to_x(x.lower):.1f} {to_y(y.value):.1f}H{to_x(x.upper):.1f}"
    if math.isfinite(y.lower) and math.isfinite(y.upper):
        path += f"M{to_x(x.value):.1f} {to_y(y.lower):.1f}V{to_y(y.upper):.1f}"
    return f'<path d="{path}" stroke="{color}" stroke-width="1" opacity="0.6" fill="none"/>' if path else ""


def _cross_box(x: Interval, y: Interval, to_x, to_y) -> list[Box]:
    """Return the two arms of a cross as thin boxes, without those that are not finite."""
    center_x, center_y = to_x(x.value), to_y(y.value)
    arms = [
        (to_x(x.lower), center_y - 1, to_x(x.upper), center_y + 1),
        (center_x - 1, to_y(y.upper), center_x + 1, to_y(y.lower)),
    ]
    return [Box(*arm) for arm in arms if all(map(math.isfinite, arm))]


def _marker(x: float, y: float, style: Style, tip: str) -> str:
    shapes = {
        "circle": f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.6"',
        "square": f'<rect x="{x - 4.1:.1f}" y="{y - 4.1:.1f}" width="8.2" height="8.2"',
        "diamond": f'<path d="M{x:.1f} {y - 5.8:.1f}l5.8 5.8l-5.8 5.8l-5.8 -5.8z"',
        "triangle": f'<path d="M{x:.1f} {y - 5.4:.1f}l5.2 9.2h-10.4z"',
    }
    return f'{shapes[style.shape]} fill="{style.color}" stroke="#fff"><title>{escape(tip)}</title>{_close(style.shape)}'


def _close(shape: str) -> str:
    return {"circle": "</circle>", "square": "</rect>", "diamond": "</path>", "triangle": "</path>"}[shape]


def _legend(groups: Sequence[str], styles: Mapping[str, Style], left: float, with_reference: bool) -> str:
    parts, x = [], left + 6
    for group in groups:
        parts.append(_marker(x, 16, styles[group], group))
        parts.append(_text(x + 10, 20, group))
        x += 10 + _width(group) + 22
    if with_reference:
        parts.append(f'<line x1="{x:.1f}" x2="{x + 22:.1f}" y1="16" y2="16" stroke="{MUTED}" stroke-dasharray="5 4"/>')
        parts.append(_text(x + 28, 20, "value of the original"))
    return "".join(parts)


def _styles(groups: Sequence[str]) -> dict[str, Style]:
    others = [group for group in groups if group not in WORLD_STYLES]
    chosen = {group: OTHER_STYLES[index % len(OTHER_STYLES)] for index, group in enumerate(others)}
    return {group: WORLD_STYLES.get(group) or chosen[group] for group in groups}


def _point_style(label: str, reference: str | None) -> Style:
    return Style("#d55e00", "diamond") if label == reference else Style("#0072b2", "circle")


def _scale(ticks: Sequence[float], start: float, end: float):
    low, span = ticks[0], ticks[-1] - ticks[0]
    return lambda value: start + (value - low) / span * (end - start)


def _ends(intervals: Iterable[Interval]) -> list[float]:
    return [end for interval in intervals for end in (interval.lower, interval.value, interval.upper)]


def _figures(interval: Interval) -> str:
    return f"{interval.value:.3f} [{interval.lower:.3f}, {interval.upper:.3f}]"


def _tick_text(tick: float, ticks: Sequence[float]) -> str:
    digits = max(0, -math.floor(math.log10(ticks[1] - ticks[0]) + 1e-9))
    return f"{tick:.{digits}f}"


def _width(text: str) -> float:
    return CHARACTER * FONT * len(text)


def _short(label: str) -> str:
    return label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"


def _text(x: float, y: float, text: str, *, anchor="start", color=INK, weight=400, tip: str = "") -> str:
    hover = f"<title>{escape(tip)}</title>" if tip not in ("", text) else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{color}" font-weight="{weight}">'
        f"{escape(text)}{hover}</text>"
    )


def _svg(width: float, height: float, title: str, content: Iterable[str], css: str = "plot") -> str:
    return (
        f'<svg class="{css}" role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" height="{height:g}" font-size="{FONT}"><title>{escape(title)}</title>'
        f"{''.join(content)}</svg>"
    )
