"""Panels of curves as interactive plots: each column has its colour, dash and marker in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from finetune.comparison.figures import Curve
from finetune.display import in_page
from finetune.plots import COLOURS

BLACK = "#000000"
OTHERS = tuple(colour for colour in COLOURS if colour != BLACK)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
MODES = {"line": "lines", "points": "markers", "both": "lines+markers", "steps": "lines"}
WIDE, HIGH = 3, 300  # panels in a row, height of one in pixels
ROOM = 2.0  # times the extent of what is right, that a panel shows above and below it


def panels(curves: Mapping[str, Sequence[Curve]], reference: str | None, names: Sequence[str]) -> go.Figure | None:
    """One figure of all panels of an observable; None where there is nothing to draw.

    Args:
        curves: by column.
        reference: name of the column that is drawn in black.
        names: all columns, in the order of their colours.
    """
    titles = list(dict.fromkeys(curve.panel for own in curves.values() for curve in own))
    if not titles:
        return None
    wide = min(WIDE, len(titles))
    rows = math.ceil(len(titles) / wide)
    named = [in_page(title) for title in titles]
    figure = make_subplots(rows, wide, subplot_titles=named, vertical_spacing=0.32 / rows, horizontal_spacing=0.08)
    shown: set[str] = set()
    labels: dict[int, str] = {}
    for name in _order(curves, reference):
        for curve in curves[name]:
            if curve.diagonal and name == reference:
                continue  # it lies on the line
            place = titles.index(curve.panel)
            where = {"row": place // wide + 1, "col": place % wide + 1}
            style = _style(name, reference, names)
            for trace in _traces(curve, name, style, name not in shown):
                figure.add_trace(trace, **where)
            shown.add(name)
            figure.update_xaxes(title_text=in_page(curve.x_label), title_standoff=4, **where)
            if place % wide == 0 or labels.get(place - 1) != curve.y_label:
                figure.update_yaxes(title_text=in_page(curve.y_label), title_standoff=4, **where)
            labels[place] = curve.y_label
    for place, title in enumerate(titles):
        where = {"row": place // wide + 1, "col": place % wide + 1}
        own = {name: [curve for curve in several if curve.panel == title] for name, several in curves.items()}
        _diagonal(figure, own, where)
        span = _span(own, reference)
        if span is not None:
            figure.update_yaxes(range=span[:2], **where)
            figure.layout.annotations[place].text += " (cut off)" if span[2] else ""
    _arrange(figure, rows, wide)
    return figure


def _arrange(figure: go.Figure, rows: int, wide: int) -> None:
    """Set size, margins, legend and font of a figure with some rows of panels."""
    high = HIGH * rows + 90
    figure.update_layout(
        template="simple_white",
        height=high,
        width=None if wide == WIDE else 420 * wide,
        margin={"l": 60, "r": 20, "t": 56, "b": 90},
        legend={"orientation": "h", "y": -60 / high, "yanchor": "top", "x": 0, "xanchor": "left"},
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_annotations(font_size=13)


def _style(name: str, reference: str | None, names: Sequence[str]) -> tuple[str, str, str]:
    """Colour, dash and marker of a column."""
    if name == reference:
        return BLACK, "solid", "circle-open"
    k = [other for other in names if other != reference].index(name)
    return OTHERS[k % len(OTHERS)], DASHES[k % len(DASHES)], MARKERS[k % len(MARKERS)]


def _traces(curve: Curve, name: str, style: tuple[str, str, str], first: bool) -> list[go.Scatter]:
    """The curve and its band."""
    colour, dash, marker = style
    x, y = np.asarray(curve.x), np.asarray(curve.y)
    cloud = curve.style == "points"
    traces = [
        go.Scatter(
            x=x,
            y=y,
            name=in_page(name),
            legendgroup=name,
            showlegend=first,
            mode=MODES[curve.style],
            line={"color": colour, "dash": dash, "width": 1.8, "shape": "hv" if curve.style == "steps" else "linear"},
            marker={"color": colour, "symbol": marker, "size": 5 if cloud else 6, "opacity": 0.6 if cloud else 1},
        )
    ]
    if curve.low is not None and curve.high is not None:
        band = np.concatenate([np.asarray(curve.high), np.asarray(curve.low)[::-1]])
        traces.insert(
            0,
            go.Scatter(
                x=np.concatenate([x, x[::-1]]),
                y=band,
                fill="toself",
                mode="lines",
                line={"width": 0},
                fillcolor=_faint(colour),
                legendgroup=name,
                showlegend=False,
                hoverinfo="skip",
            ),
        )
    return traces


def _faint(colour: str) -> str:
    red, green, blue = (int(colour[k : k + 2], 16) for k in (1, 3, 5))
    return f"rgba({red},{green},{blue},0.18)"


def _diagonal(figure: go.Figure, own: Mapping[str, Sequence[Curve]], where: Mapping[str, int]) -> None:
    """The line y = x where it is what is right."""
    values = _finite([curve.x for several in own.values() for curve in several if curve.diagonal])
    if len(values):
        ends = [values.min(), values.max()]
        line = go.Scatter(
            x=ends, y=ends, mode="lines", line={"color": "#777777", "width": 1}, showlegend=False, hoverinfo="skip"
        )
        figure.add_trace(line, **where)


def _finite(lists: Sequence[Sequence[float]]) -> np.ndarray:
    """All finite numbers of several lists."""
    values = np.concatenate([np.asarray(numbers, float) for numbers in lists]) if lists else np.array([])
    return values[np.isfinite(values)]


def _order(curves: Mapping[str, Sequence[Curve]], reference: str | None) -> list[str]:
    """Columns in the order in which they are drawn: what reaches farthest first, the reference on top."""

    def reach(name: str) -> float:
        return float(np.abs(_finite([curve.y for curve in curves[name]])).max(initial=0.0))

    return sorted(curves, key=lambda name: (name == reference, -reach(name)))


def _span(own: Mapping[str, Sequence[Curve]], reference: str | None) -> tuple[float, float, bool] | None:
    """Lowest and highest ordinate of a panel, and whether curves are cut off; None leaves it to the data.

    What is right, the reference or the line y = x, fills at least a fifth of the height (`ROOM` times its own extent
    above and below it), so that one potential that is far off does not hide the others.
    """
    flat = [curve for several in own.values() for curve in several]
    values = _finite([curve.y for curve in flat])
    right = _finite([curve.x for curve in flat if curve.diagonal])
    if not len(right):
        right = _finite([curve.y for curve in own.get(reference or "", [])])
    fixed = [curve.limits for curve in flat if curve.limits is not None]
    if not len(values) or (not len(right) and not fixed):
        return None
    low, high = (fixed[0][0], fixed[0][1]) if fixed else (-math.inf, math.inf)
    if len(right) and np.ptp(right) > 0:
        low, high = max(low, right.min() - ROOM * np.ptp(right)), min(high, right.max() + ROOM * np.ptp(right))
    cut = bool(values.min() < low or values.max() > high)
    if any(curve.whole for curve in flat):
        return float(low), float(high), cut
    if not cut and not fixed:
        return None
    shown = values[(values >= low) & (values <= high)]
    ends = (shown.min(), shown.max()) if len(shown) else (low, high)
    margin = 0.05 * (ends[1] - ends[0]) or 1.0
    return float(max(low, ends[0] - margin)), float(min(high, ends[1] + margin)), cut
