"""Figures of a dataset as PNG: neighbours by pair of elements, sizes of forces, energies over composition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from finetune.data.frames import Frame
from finetune.display import in_plot
from finetune.doctor.coverage import EDGES, Coverage
from finetune.plots import COLOURS, GREY, LEGEND_COLUMNS, bare, look, save
from finetune.references import compositions, fit_references

STYLES = ("-", "--", ":", "-.")
SMALLEST = 0.01  # eV/Å; smaller forces are drawn as this
BINS = 40
PANELS = 3  # in a row


def neighbours(seen: Coverage, path: Path) -> None:
    """Density of neighbours against distance, a panel for each pair of elements, a line for each family."""
    pairs = list(seen.neighbours)
    columns = min(PANELS, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    families = sorted({family for found in seen.neighbours.values() for family in found})
    figure = Figure(figsize=(3.6 * columns, 2.5 * rows + 0.5), layout="constrained")
    panels = np.ravel(figure.subplots(rows, columns, squeeze=False, sharex=True))
    centres = (EDGES[1:] + EDGES[:-1]) / 2
    start = math.floor(2 * min(seen.closest.values())) / 2 - 0.25
    for axes, pair in zip(panels, pairs, strict=False):
        for k, family in enumerate(families):
            if family in seen.neighbours[pair]:
                axes.plot(centres, seen.neighbours[pair][family], **_line(k))
        axes.axvline(seen.closest[pair], color=GREY, linewidth=0.8, linestyle=":")
        axes.set(title=f"{pair}, from {seen.closest[pair]:.2f} Å", xlim=(start, EDGES[-1]), ylim=(0, None))
        bare(axes)
    for axes in panels[len(pairs) :]:
        axes.set_axis_off()
    for axes in panels[max(len(pairs) - columns, 0) : len(pairs)]:
        axes.set_xlabel("distance, Å")
        axes.xaxis.set_tick_params(labelbottom=True)
    for axes in panels[::columns]:
        axes.set_ylabel("neighbours, 1/Å³")
    _legend(figure, panels[0], families)
    save(figure, path)


def forces(frames: Sequence[Frame], path: Path) -> None:
    """Share of atoms by the size of their force, a line for each family."""
    sizes: dict[str, list[np.ndarray]] = {}
    for frame in frames:
        if "forces" in frame.given:
            sizes.setdefault(frame.family, []).append(np.linalg.norm(frame.labels.forces.numpy(), axis=1))
    joined = {family: np.maximum(np.concatenate(found), SMALLEST) for family, found in sorted(sizes.items())}
    figure = Figure(figsize=(5.6, 3.8), layout="constrained")
    axes = figure.subplots()
    if joined:
        largest = max(found.max() for found in joined.values())
        edges = np.geomspace(SMALLEST, 1.1 * largest, BINS + 1)
        for k, found in enumerate(joined.values()):
            counts, _ = np.histogram(found, edges)
            axes.stairs(100 * counts / len(found), edges, baseline=None, **_line(k))
        axes.set(xscale="log", ylim=(0, None))
        ticks = [t for t in (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300) if t <= 1.1 * largest]
        axes.set_xticks(ticks, labels=[f"{t:g}" for t in ticks])
        axes.xaxis.minorticks_off()
    axes.set(xlabel="size of the force on an atom, eV/Å", ylabel="atoms, %")
    bare(axes)
    _legend(figure, axes, list(joined))
    save(figure, path)


def energies(frames: Sequence[Frame], path: Path) -> None:
    """Energy beyond the best energy per element against the share of each element, coloured by family."""
    known = [frame for frame in frames if "energy" in frame.given]
    elements, counts = compositions([frame.atoms.numbers for frame in known])
    figure = Figure(figsize=(3.4 * max(len(elements), 1) + 0.6, 3.8), layout="constrained")
    panels = np.ravel(figure.subplots(1, max(len(elements), 1), squeeze=False, sharey=True))
    families = sorted({frame.family for frame in known})
    if known:
        energy = np.array([float(frame.labels.energy) for frame in known])
        zero = fit_references([frame.atoms.numbers for frame in known], energy)
        beyond = (energy - [zero.of(frame.atoms.numbers) for frame in known]) / counts.sum(axis=1)
        owner = np.array([frame.family for frame in known], dtype=object)
        for axes, z, count in zip(panels, elements, counts.T, strict=True):
            share = 100 * count / counts.sum(axis=1)
            for k, family in enumerate(families):
                mine = owner == family
                axes.scatter(share[mine], beyond[mine], s=18.0, alpha=0.75, linewidths=0, **look(k))
            axes.set(xlabel=f"{chemical_symbols[z]}, % of the atoms", xlim=(-4, 104))
    for axes in panels:
        axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=1)
        bare(axes)
    panels[0].set_ylabel("energy beyond composition, eV/atom")
    handles = [
        panels[0].scatter([], [], label=in_plot(family), linewidths=0, **look(k)) for k, family in enumerate(families)
    ]
    _below(figure, handles)
    save(figure, path)


def draw(frames: Sequence[Frame], seen: Coverage, directory: Path) -> list[Path]:
    """All figures of a dataset into a directory; their paths.

    Raises:
        InputError: a file cannot be written.
    """
    paths = [directory / name for name in ("distances.png", "forces.png", "energies.png")]
    if seen.neighbours:
        neighbours(seen, paths[0])
    if any(frame.given for frame in frames):
        forces(frames, paths[1])
        energies(frames, paths[2])
    return [path for path in paths if path.is_file()]


def _line(k: int) -> dict[str, Any]:
    """Colour and style of family k; colours come again with another style."""
    return {"color": COLOURS[k % len(COLOURS)], "linestyle": STYLES[k // len(COLOURS) % len(STYLES)], "linewidth": 1.4}


def _legend(figure: Figure, axes: Axes, families: Sequence[str]) -> None:
    """One legend of lines below all panels."""
    _below(figure, [axes.plot([], [], label=in_plot(family), **_line(k))[0] for k, family in enumerate(families)])


def _below(figure: Figure, handles: Sequence[object]) -> None:
    """A legend below all panels, if there is anything to name."""
    if handles:
        columns = min(len(handles), LEGEND_COLUMNS)
        figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
