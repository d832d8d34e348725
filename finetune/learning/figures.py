"""Figures of a campaign, as SVG texts."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from finetune.learning.stopping import Summary
from finetune.plots import COLOURS, GREY, bare

ENDS = ("low", "high")  # of the interval of an error
DECADE = 10.0  # errors that span more are shown on a logarithmic axis
ACTIVE, CONTROL, LABELLED = COLOURS[0], COLOURS[1], COLOURS[2]


def learning_curves(
    arms: Mapping[str, Sequence[Summary]], errors: Mapping[str, Sequence[Mapping[str, Any]]], start: int
) -> str:
    """Errors of forces and energy on the validation frames (and dashed on the test frames) against labels, per arm.

    Bands are 95 % intervals over groups of frames, where there are any.

    Args:
        arms: summaries of the generations, by name of the arm.
        errors: content of `errors.json` of each generation, by name of the arm.
        start: labelled frames at the beginning.
    """
    figure, plots = _figure(2)
    columns = (("forces_rmse", "forces RMSE, meV/Å"), ("energy_mae", "energy MAE, meV/atom"))
    for axes, (key, label) in zip(plots, columns, strict=True):
        shown: list[float] = []
        for k, (name, history) in enumerate(arms.items()):
            labels = [start + one.labels for one in history]
            for part, line in (("valid", "-"), ("test", "--")):
                if all(part in content for content in errors[name]):
                    values = [content[part]["all"][key] for content in errors[name]]
                    shown += values
                    text = name if part == "valid" else f"{name}, test frames"
                    axes.plot(labels, values, line, marker="o", markersize=4, color=COLOURS[k], label=text)
                    ends = [[content[part]["all"].get(f"{key}_{end}") for content in errors[name]] for end in ENDS]
                    if all(end is not None for row in ends for end in row):
                        axes.fill_between(labels, ends[0], ends[1], color=COLOURS[k], alpha=0.12, linewidth=0)
        axes.set(xlabel="labelled frames", ylabel=label)
        if min(shown) > 0 and max(shown) > DECADE * min(shown):
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    plots[0].legend(frameon=False)
    return _svg(figure)


def selected(candidates: Sequence[Atoms], chosen: Sequence[Atoms], score: str, unit: str) -> str:
    """How uncertain candidates and selected frames are, and distance against uncertainty of the selected ones."""
    figure, (left, right) = _figure(2)
    scores = [[float(a.info["score"]) for a in frames] for frames in (candidates, chosen)]
    if candidates:
        bins = np.linspace(min(scores[0]), max(scores[0]) + 1e-12, 25).tolist()
        left.hist(scores[0], bins, color="0.8", label=f"{len(candidates)} candidates")
        left.hist(scores[1], bins, color=ACTIVE, label=f"{len(chosen)} selected")
        left.legend(frameon=False)
    name = f"{score}, {unit}" if unit else score
    left.set(xlabel=name, ylabel="frames")
    if chosen:
        points = right.scatter(
            scores[1],
            [float(a.info["distance"]) for a in chosen],
            c=[float(a.info["front"]) for a in chosen],
            cmap="viridis",
            vmin=0,
            vmax=1,
            s=22,
        )
        figure.colorbar(points, ax=right, label="closeness to the reaction front")
    right.set(xlabel=name, ylabel="distance to what was known")
    return _svg(figure)


def survival(runs: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """Share of dynamics that still run after a share of their time, and share of time that is uncertain, by generation.

    Args:
        runs: records of the dynamics of each generation, from the first that explores on.
    """
    figure, (left, right) = _figure(2)
    shades = np.linspace(0.75, 0.0, max(len(runs), 1))
    for k, records in enumerate(runs):
        reached = np.sort([one["reached_ps"] / one["planned_ps"] for one in records])
        times = np.linspace(0, 1, 101)
        alive = [float((reached >= time - 1e-9).mean()) for time in times]
        left.step(times, alive, where="post", color=str(shades[k]), label=f"generation {k + 1}")
    left.set(xlabel="time over the planned time", ylabel="share of runs alive", ylim=(0, 1.05))
    if len(runs) <= 8:
        left.legend(frameon=False, fontsize=8)
    kinds = ("certain", "uncertain", "cut off by a stop")
    parts = np.array([_shares(records) for records in runs]).reshape(-1, 3)
    bottom = np.zeros(len(runs))
    for k, (kind, colour) in enumerate(zip(kinds, ("0.85", CONTROL, COLOURS[4]), strict=True)):
        right.bar(np.arange(1, len(runs) + 1), parts[:, k], bottom=bottom, color=colour, label=kind)
        bottom += parts[:, k]
    right.set(xlabel="generation", ylabel="share of planned time", ylim=(0, 1.05))
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    right.legend(fontsize=8, loc="lower right", framealpha=0.9, edgecolor="none")
    return _svg(figure)


def _shares(records: Sequence[Mapping[str, Any]]) -> tuple[float, float, float]:
    """Shares of the planned time that were certain, uncertain, and not reached."""
    planned = sum(one["planned_ps"] for one in records)
    reached = sum(one["reached_ps"] for one in records)
    doubtful = sum(
        one["reached_ps"] * min(1.0, (one["uncertain"] + one["absurd"]) / one["frames"])
        for one in records
        if one["frames"]
    )
    return (reached - doubtful) / planned, doubtful / planned, 1 - reached / planned


def composition_map(train: Sequence[Atoms], explored: Sequence[Atoms], chosen: Sequence[Atoms]) -> str:
    """Shares of the two elements that vary most: of the frames to begin with, explored, and labelled since."""
    figure, (axes,) = _figure(1)
    everything = [*train, *explored, *chosen]
    elements = sorted({int(z) for atoms in everything for z in atoms.numbers})
    shares = np.array([[(a.numbers == z).mean() for z in elements] for a in everything])
    two = np.sort(np.argsort(-shares.std(axis=0), kind="stable")[:2])
    ends = np.cumsum([len(train), len(explored), len(chosen)])
    styles: tuple[tuple[str, dict[str, Any]], ...] = (
        ("at the beginning", {"color": GREY, "s": 22.0, "marker": "s"}),
        ("explored", {"color": COLOURS[5], "s": 8.0, "alpha": 0.5}),
        ("labelled since", {"color": COLOURS[4], "s": 26.0, "marker": "^"}),
    )
    rows = np.split(shares, ends[:-1])
    for part, (name, style) in zip((rows[0], rows[1], rows[2]), styles, strict=True):
        if len(part):
            axes.scatter(part[:, two[0]], part[:, two[-1]], label=f"{name} ({len(part)})", linewidths=0, **style)
    names = [chemical_symbols[elements[k]] for k in two]
    axes.set(xlabel=f"share of {names[0]}", ylabel=f"share of {names[-1]}")
    axes.legend(frameon=False)
    return _svg(figure)


def cost(history: Sequence[Summary], labelled: Sequence[Atoms]) -> str:
    """Hours of computing up to each generation, and seconds per label against atoms."""
    figure, (left, right) = _figure(2)
    left.plot([one.labels for one in history], [one.cost_h for one in history], "o-", color=ACTIVE, markersize=4)
    left.set(xlabel="new labels", ylabel="computing, h")
    left.set_ylim(bottom=0)
    seconds = [float(a.info.get("wall_s", np.nan)) for a in labelled]
    right.scatter([len(a) for a in labelled], seconds, color=ACTIVE, s=12, linewidths=0)
    right.set(xlabel="atoms", ylabel="one label, s")
    return _svg(figure)


def _figure(columns: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(4.6 * columns + 0.4, 3.4), layout="constrained")
    plots = [figure.add_subplot(1, columns, k + 1) for k in range(columns)]
    for axes in plots:
        bare(axes)
    return figure, plots


def _svg(figure: Figure) -> str:
    """The figure as an `<svg>` element."""
    stream = io.StringIO()
    FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None})
    text = stream.getvalue()
    return text[text.index("<svg") :]
