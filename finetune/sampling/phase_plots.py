"""Figures of a convex hull and of the reactions along a mixing line, as PNG."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from pymatgen.analysis.phase_diagram import PhaseDiagram
from pymatgen.core import Composition
from pymatgen.entries import Entry

from finetune.plots import COLOURS, GREY, bare, save
from finetune.sampling.phases import Prediction, above_hull, lowest

LINE, REACTANT = COLOURS[0], COLOURS[4]
CORNERS = np.array([[0.0, 0.0], [0.5, np.sqrt(3) / 2], [1.0, 0.0]])
FAR = 0.1  # eV/atom above the hull, beyond which phases are not drawn
KEY_LINE = 0.2  # height of a line of the key, inches


def stable_formulas(diagram: PhaseDiagram) -> list[str]:
    """Reduced formulas of the phases on the hull, sorted."""
    return sorted(entry.composition.reduced_formula for entry in diagram.stable_entries)


def draw_hull(diagram: PhaseDiagram, prediction: Prediction, path: Path) -> bool:
    """The hull of two elements as formation energy, of three as a triangle, with the mixing line; whether it was drawn.

    Raises:
        InputError: the file cannot be written.
    """
    if len(diagram.elements) == 2:
        figure = binary(diagram)
    elif len(diagram.elements) == 3:
        figure = ternary(diagram, prediction)
    else:
        return False
    save(figure, path)
    return True


def metastable(diagram: PhaseDiagram) -> dict[str, float]:
    """Energy above the hull (eV/atom) of the compositions that are not on it but not far, by reduced formula."""
    formulas = {entry.composition.reduced_formula for entry in diagram.all_entries} - {*stable_formulas(diagram)}
    best = {formula: lowest(diagram, Composition(formula)) for formula in sorted(formulas)}
    above = {formula: above_hull(diagram, entry) for formula, entry in best.items() if entry is not None}
    return {formula: height for formula, height in above.items() if height <= FAR}


def binary(diagram: PhaseDiagram) -> Figure:
    """Formation energy against the share of the second element."""
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    second = diagram.elements[1]
    stable = sorted(diagram.stable_entries, key=lambda entry: entry.composition.get_atomic_fraction(second))
    x, y = np.array([_binary_point(diagram, entry) for entry in stable]).T
    others = np.array([_binary_point(diagram, entry) for entry in diagram.unstable_entries]).reshape(-1, 2)
    near = others[others[:, 1] - np.interp(others[:, 0], x, y) <= FAR]
    axes.scatter(
        near[:, 0], near[:, 1], s=16, facecolors="none", edgecolors=GREY, linewidths=0.8, label="above the hull"
    )
    axes.plot(x, y, color=LINE, marker="o", label="hull")
    for entry, a, b in zip(stable, x, y, strict=True):
        text = subscripts(entry.composition.reduced_formula)
        beside = "right" if a < x[np.argmin(y)] else "left" if a > x[np.argmin(y)] else "center"  # of the line
        axes.annotate(text, (a, b), (0, -8), textcoords="offset points", ha=beside, va="top")
    axes.set(xlabel=f"share of {second} in the atoms", ylabel="formation energy, eV/atom", xlim=(-0.05, 1.05))
    axes.set_ylim(min(y) - 0.12 * np.ptp(y), axes.get_ylim()[1])
    axes.legend(frameon=False)
    bare(axes)
    return figure


def _binary_point(diagram: PhaseDiagram, entry: Entry) -> tuple[float, float]:
    """Share of the second element and formation energy, eV/atom."""
    share = entry.composition.get_atomic_fraction(diagram.elements[1])
    return float(share), float(diagram.get_form_energy_per_atom(entry))


def ternary(diagram: PhaseDiagram, prediction: Prediction) -> Figure:
    """Stable phases with their tie lines, phases above the hull coloured by how far, and the mixing line."""
    figure = Figure(figsize=(8.2, 6.6), layout="constrained")
    axes = figure.subplots()
    axes.set(aspect="equal", xlim=(-0.08, 1.08), ylim=(-0.06, 0.93))
    axes.axis("off")
    above = metastable(diagram)
    formulas = dict.fromkeys([*stable_formulas(diagram), *above, *prediction.reactants])
    place = {formula: _place(diagram, formula) for formula in formulas}
    for facet in diagram.facets:
        corners = [place[diagram.qhull_entries[i].composition.reduced_formula] for i in facet]
        for pair in combinations(corners, 2):
            axes.plot(*np.array(pair).T, color="0.75", linewidth=0.8, zorder=1)
    if above:
        heights = 1e3 * np.array(list(above.values()))
        norm = Normalize(0, max(20.0, heights.max()))
        style: dict[str, Any] = {"cmap": "viridis_r", "norm": norm, "s": 30, "marker": "s", "zorder": 3}
        points = np.array([place[formula] for formula in above])
        axes.scatter(points[:, 0], points[:, 1], c=heights, **style)
        bar = figure.colorbar(ScalarMappable(norm, "viridis_r"), ax=axes, shrink=0.5, pad=0.02)
        bar.set_label("above the hull, meV/atom")
    stable = np.array([place[formula] for formula in stable_formulas(diagram)])
    axes.scatter(stable[:, 0], stable[:, 1], color=LINE, s=36, zorder=4, linewidths=0)
    ends = np.array([place[formula] for formula in prediction.reactants])
    axes.plot(*ends.T, color=REACTANT, linestyle="--", linewidth=1.6, zorder=2)
    axes.scatter(ends[:, 0], ends[:, 1], facecolors="none", edgecolors=REACTANT, s=130, linewidths=1.6, zorder=5)
    _names(axes, place, faint=set(above) - set(prediction.reactants), below=set(prediction.reactants))
    return figure


def _place(diagram: PhaseDiagram, formula: str) -> np.ndarray:
    """Where a composition lies in the triangle."""
    shares = [Composition(formula).get_atomic_fraction(element) for element in diagram.elements]
    return np.array(shares) @ CORNERS


def _names(axes: Axes, place: Mapping[str, np.ndarray], faint: set[str], below: set[str]) -> None:
    """Write formulas beside their points: outside the triangle where they lie on its edges, never on each other."""
    lowest_on = {"left": 1.0, "right": 1.0}
    for formula, (x, y) in sorted(place.items(), key=lambda item: -item[1][1]):
        at, ha, va = (x - 0.01, y + 0.012), "right", "bottom"
        edges = {"right": abs(y - np.sqrt(3) * x) < 1e-6, "left": abs(y - np.sqrt(3) * (1 - x)) < 1e-6}
        if abs(y) < 1e-6:
            at, ha, va = (x, -0.025), "center", "top"
        elif all(edges.values()):
            at, ha, va = (x, y + 0.02), "center", "bottom"
        elif any(edges.values()):
            ha, va = ("right" if edges["right"] else "left"), "center"
            lowest_on[ha] = min(y, lowest_on[ha] - 0.03)
            at = (x + (0.022 if ha == "left" else -0.022), lowest_on[ha])
        elif formula in below:
            at, ha, va = (x + 0.01, y - 0.02), "left", "top"
        elif formula in faint:
            at, ha, va = (x, y + 0.012), "center", "bottom"
        colour, size = (GREY, 7.5) if formula in faint else ("black", 9.5)
        axes.text(*at, subscripts(formula), ha=ha, va=va, fontsize=size, color=colour, zorder=6)


def draw_reactions(prediction: Prediction, path: Path) -> None:
    """Reaction energy against the mixing ratio, and uptake of an open element against its potential.

    Raises:
        InputError: the file cannot be written.
    """
    panels = (len(prediction.reactions) > 1) + len({step.compound for step in prediction.uptakes})
    texts = keys(prediction)
    height = 3.6 + KEY_LINE * (max(map(len, texts)) + 1)
    figure = Figure(figsize=(max(6.4, 5.4 * panels), height), layout="constrained")
    grid = figure.subplots(2, panels, squeeze=False, height_ratios=[3.6, height - 3.6])
    column = 0
    if len(prediction.reactions) > 1:
        _energies(grid[0, 0], prediction)
        column = 1
    for compound in dict.fromkeys(step.compound for step in prediction.uptakes):
        _uptakes(grid[0, column], prediction, compound)
        column += 1
    for axes, lines in zip(grid[1], texts, strict=True):
        axes.axis("off")
        axes.text(0, 1, "\n".join(lines), transform=axes.transAxes, va="top", fontsize=8.5, linespacing=1.5)
    save(figure, path)


def keys(prediction: Prediction) -> list[list[str]]:
    """What the numbers of each panel mean."""
    texts = []
    if len(prediction.reactions) > 1:
        lines = [f"{_side(r.reactants)} → {_side(r.products)}" for r in prediction.reactions]
        texts.append([f"{k}.  {line}" for k, line in enumerate(lines, 1)])
    for compound in dict.fromkeys(step.compound for step in prediction.uptakes):
        steps = [step for step in prediction.uptakes if step.compound == compound]
        texts.append([f"{k}.  {_side(step.products)}" for k, step in enumerate(steps, 1)])
    return texts


def _energies(axes: Axes, prediction: Prediction) -> None:
    """Reaction energy along the mixing line; every kink has a number."""
    x, y = np.array([(reaction.x, reaction.energy) for reaction in prediction.reactions]).T
    axes.plot(x, y, color=LINE, marker="o", markersize=4)
    k = int(np.argmin(y))
    axes.scatter(x[k], y[k], color=REACTANT, s=70, zorder=3, linewidths=0)
    up = [-1 if i == k or i % 2 else 1 for i in range(len(x))]
    across = [int(np.sign(k - i)) * up[i] for i in range(len(x))]  # beside the line, which falls up to k and then rises
    _numbers(axes, x, y, across, up)
    first, second = (subscripts(name) for name in prediction.reactants)
    counted = f", {prediction.open_to} not counted" if prediction.open_to else ""
    axes.set(xlabel=f"share x of the atoms from {first}, the rest from {second}{counted}")
    axes.set(
        ylabel="reaction energy, eV/atom", xlim=(-0.05, 1.05), ylim=(1.2 * min(y.min(), -1e-3), 0.1 * abs(y.min()))
    )
    bare(axes)


def _uptakes(axes: Axes, prediction: Prediction, compound: str) -> None:
    """Atoms of the open element taken up, as steps over its chemical potential."""
    steps = [step for step in prediction.uptakes if step.compound == compound]
    edges = np.array([step.potential for step in steps])
    low = edges[0] - 0.15 * max(np.ptp(edges), 0.5)
    lows, amounts = np.concatenate([[low], edges[:-1]]), np.array([step.amount for step in steps])
    axes.stairs(amounts, np.append(lows, edges[-1]), baseline=None, color=LINE, linewidth=1.8)
    _numbers(axes, (lows + edges) / 2, amounts, [0] * len(steps), [1] * len(steps))
    axes.axvline(prediction.potential, color=REACTANT, linestyle="--", linewidth=1.2)
    element = prediction.open_to
    axes.set(xlabel=f"chemical potential of {element} relative to the element, eV")
    axes.set(ylabel=f"{element} taken up per {subscripts(compound)}", xlim=(low, 0.05 * abs(low)))
    axes.margins(y=0.15)
    bare(axes)


def _numbers(axes: Axes, x: np.ndarray, y: np.ndarray, across: Sequence[int], up: Sequence[int]) -> None:
    """Numbers from one beside points: to the left (-1), right (1) or neither (0), and above (1) or below (-1)."""
    for k, (point, right, above) in enumerate(zip(zip(x, y, strict=True), across, up, strict=True), 1):
        ha, va = ("right", "center", "left")[right + 1], "bottom" if above > 0 else "top"
        offset = (5 * right, 5 * above if right else 7 * above)
        axes.annotate(str(k), point, offset, textcoords="offset points", ha=ha, va=va, fontsize=9)


def _side(amounts: Mapping[str, float]) -> str:
    """One side of an equation with subscripts."""
    numbers = ("" if abs(n - 1) < 1e-4 else f"{n:.3g} " for n in amounts.values())
    return " + ".join(n + subscripts(formula) for n, formula in zip(numbers, amounts, strict=True))


def subscripts(formula: str) -> str:
    """A formula with its numbers as subscripts."""
    return re.sub(r"(\d+(?:\.\d+)?)", r"$_{\1}$", formula)
