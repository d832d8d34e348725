"""Panels of curves as interactive plots: each column has its colour, dash and marker in all of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from finetune.comparison.figures import Curve
from finetune.plots import COLOURS

BLACK = "#000000"
OTHERS = tuple(colour for colour in COLOURS if colour != BLACK)
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "x")
MODES = {"line": "lines", "points": "markers", "both": "lines+markers", "steps": "lines"}
WIDE, HIGH = 3, 300  # panels in a row, height of one in pixels


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
    figure = make_subplots(rows, wide, subplot_titles=titles, vertical_spacing=0.32 / rows, horizontal_spacing=0.08)
    shown: set[str] = set()
    labels: dict[int, str] = {}
    for name in sorted(curves, key=lambda column: column == reference):  # the reference on top
        for curve in curves[name]:
            place = titles.index(curve.panel)
            where = {"row": place // wide + 1, "col": place % wide + 1}
            style = _style(name, reference, names)
            for trace in _traces(curve, name, style, name not in shown):
                figure.add_trace(trace, **where)
            shown.add(name)
            figure.update_xaxes(title_text=curve.x_label, title_standoff=4, **where)
            if place % wide == 0 or labels.get(place - 1) != curve.y_label:
                figure.update_yaxes(title_text=curve.y_label, title_standoff=4, **where)
            labels[place] = curve.y_label
    _diagonals(figure, curves, titles, wide)
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
    return figure


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
            name=name,
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


def _diagonals(figure: go.Figure, curves: Mapping[str, Sequence[Curve]], titles: Sequence[str], wide: int) -> None:
    """The line y = x in the panels where it is what is right."""
    for place, title in enumerate(titles):
        own = [c for several in curves.values() for c in several if c.panel == title and c.diagonal]
        values = np.concatenate([np.asarray(c.x, float) for c in own]) if own else np.array([])
        values = values[np.isfinite(values)]
        if len(values):
            ends = [values.min(), values.max()]
            line = go.Scatter(
                x=ends, y=ends, mode="lines", line={"color": "#777777", "width": 1}, showlegend=False, hoverinfo="skip"
            )
            figure.add_trace(line, row=place // wide + 1, col=place % wide + 1)
