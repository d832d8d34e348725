"""Equations of state, and the energies of reactions between phases."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from pymatgen.analysis.eos import EOS, EOSError
from pymatgen.analysis.phase_diagram import PDEntry, PhaseDiagram
from pymatgen.core import Composition

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, single_points
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError, unknown

ATOM = "atom"  # family of atoms alone
FEWEST = 5  # volumes that a fit takes
SMALL = 1e-8  # singular values below this are zero


@dataclass(frozen=True)
class State:
    """A phase's equation of state, of third order (Birch, Phys. Rev. 71, 809, 1947).

    Attributes:
        formula: of the cell.
        volumes: Å³/atom, ascending.
        energies: eV/atom.
        lowest: energy of the minimum, eV/atom; NaN where there is no fit.
        volume: V0, Å³/atom; NaN where there is no fit.
        bulk_GPa: B0.
        derivative: B0'.
    """

    formula: Composition
    volumes: np.ndarray
    energies: np.ndarray
    lowest: float
    volume: float
    bulk_GPa: float
    derivative: float


def states(files: Sequence[str], calculator: BaseCalculator) -> dict[str, State]:
    """The equation of state of each phase (group) from frames of several volumes; single points, nothing relaxes."""
    groups: dict[str, list[Atoms]] = {}
    for frame in read(list(files), labelled=False):
        if frame.atoms.pbc.all() and not (frame.isolated or frame.family == ATOM):
            groups.setdefault(frame.group, []).append(frame.atoms)
    found = {}
    for group, frames in groups.items():
        said = single_points(frames, calculator)
        known = sorted(
            (atoms.get_volume() / len(atoms), float(point.energy[0]) / len(atoms))
            for atoms, point in zip(frames, said, strict=True)
            if point is not None
        )
        if known:
            found[group] = _state(frames[0], np.array(known))
    return found


def _state(atoms: Atoms, known: np.ndarray) -> State:
    volumes, energies = known.T
    formula = Composition(atoms.get_chemical_formula())
    unfitted = State(formula, volumes, energies, np.nan, np.nan, np.nan, np.nan)
    if len(volumes) < FEWEST or not np.isfinite(energies).all():
        return unfitted
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            fit = EOS("birch_murnaghan").fit(volumes, energies)
    except (EOSError, RuntimeError, ValueError):
        return unfitted
    if not volumes[0] <= fit.v0 <= volumes[-1] or fit.b0 <= 0:
        return unfitted
    return State(formula, volumes, energies, float(fit.e0), float(fit.v0), float(fit.b0) / units.GPa, float(fit.b1))


def _unfitted(state: State) -> str:
    """Why a phase has no fit."""
    if not np.isfinite(state.energies).all():
        return "an energy that is no number, so no fit"
    if len(state.volumes) < FEWEST:
        return f"{len(state.volumes)} volumes, and a fit takes {FEWEST}"
    least = state.volumes[state.energies.argmin()]
    span = f"{state.volumes[0]:.1f} to {state.volumes[-1]:.1f} Å³/atom"
    return f"no minimum in {span}, lowest at {least:.1f}; Δ is from the lowest point"


@dataclass(frozen=True, kw_only=True)
class EquationOfState(Observable):
    """Energy against volume: V0, B0 and B0' of each phase.

    Attributes:
        files: structures of each phase (group) at five volumes or more; every calculator gets the same ones.
    """

    heading: ClassVar[str] = "Equations of state"
    about: ClassVar[str] = (
        "Third-order Birch-Murnaghan fits to single points at the same structures. Δ is the root mean square "
        "difference of two curves, each from its own minimum, over the volumes that were computed."
    )
    points: ClassVar[bool] = True
    lacking: ClassVar[str] = "without a minimum"
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "V0": Tolerance(relative=0.01),
        "B0": Tolerance(0.5, 0.05),
        "Δ": Tolerance(3.0, target=0.0),
    }

    files: Sequence[str]

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Fit each phase."""
        figures, curves, notes = [], [], []
        for phase, state in states(self.files, calculator).items():
            figures += [
                Figure(phase, "V0", state.volume, "Å³/atom"),
                Figure(phase, "B0", state.bulk_GPa, "GPa"),
                Figure(phase, "B0'", state.derivative),
            ]
            if np.isnan(state.volume):
                notes.append(f"{phase}: {_unfitted(state)}")
            above = 1000 * (state.energies - np.nan_to_num(state.lowest, nan=state.energies.min()))
            labels = ("volume, Å³/atom", "energy above the minimum, meV/atom")
            curves.append(Curve(phase, state.volumes.tolist(), above.tolist(), *labels, style="both"))
        return Measured(figures, curves, notes)

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Root mean square difference of the curves of each phase, meV/atom."""
        known = {curve.panel: curve for curve in reference.curves}
        found = []
        for curve in measured.curves:
            other = known.get(curve.panel)
            if other is not None and list(other.x) == list(curve.x):
                own, wanted = np.array(curve.y), np.array(other.y)
                found.append(Figure(curve.panel, "Δ", float(np.sqrt(((own - wanted) ** 2).mean())), "meV/atom"))
        return found


@dataclass(frozen=True, kw_only=True)
class Energies(Observable):
    """Energies of reactions between phases; of formation, above the hull and of cohesion where the files allow it.

    Attributes:
        files: as for `EquationOfState`; an element's phase gives energies of formation, an isolated atom
            (`config_type=IsolatedAtom`, no cell or a large one, or the family `atom`) that of cohesion.
        reactions: such as `Li7P3S11 + Li -> Li2S + Li3P`, balanced by itself; the names are those of the phases.
    """

    heading: ClassVar[str] = "Energies of reactions"
    about: ClassVar[str] = (
        "At the minimum of each phase's equation of state, without vibrations. Per atom of the reactants; below 0: the "
        "reaction gives energy."
    )
    points: ClassVar[bool] = True
    usual: ClassVar[Mapping[str, Tolerance]] = {
        "reaction energy": Tolerance(10.0),
        "formation energy": Tolerance(10.0),
        "energy above the hull": Tolerance(10.0),
        "cohesive energy": Tolerance(50.0),
    }

    files: Sequence[str]
    reactions: Sequence[str] = ()

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Combine the energies of phases."""
        found = states(self.files, calculator)
        missing = [name for name, state in found.items() if np.isnan(state.lowest)]
        notes = [f"{name}: {_unfitted(found[name])}" for name in missing]
        figures = []
        for text in self.reactions:
            balanced, energy = reaction(text, found)
            if energy is None:
                notes.append(f"{balanced}: a phase is missing")
            else:
                figures.append(Figure(balanced, "reaction energy", 1000 * energy, "meV/atom"))
        figures += _hull(found) + self._cohesion(found, calculator)
        return Measured(figures, [], notes)

    def check(self) -> None:
        """The files, and that they have the phases of the reactions, which can be balanced."""
        super().check()
        formulas = {
            frame.group: Composition(frame.atoms.get_chemical_formula())
            for frame in read(list(self.files), labelled=False)
        }
        for text in self.reactions:
            for name in (name for side in sides_of(text) for name in side):
                if name not in formulas:
                    raise unknown("phase in a reaction", name, formulas)
            coefficients(text, formulas)

    def _cohesion(self, found: Mapping[str, State], calculator: BaseCalculator) -> list[Figure]:
        """Energy of the atoms alone minus that of the phase, per atom."""
        alone = [frame for frame in read(list(self.files), labelled=False) if frame.isolated or frame.family == ATOM]
        said = single_points([frame.atoms for frame in alone], calculator)
        atoms = free_atoms(alone, [np.nan if point is None else float(point.energy[0]) for point in said])
        figures = []
        for phase, state in found.items():
            amounts = state.formula.fractional_composition.get_el_amt_dict()
            if set(amounts) <= set(atoms):
                free = sum(share * atoms[symbol] for symbol, share in amounts.items())
                figures.append(Figure(phase, "cohesive energy", 1000 * (free - state.lowest), "meV/atom"))
        return figures


def free_atoms(frames: Sequence[Frame], energies: Sequence[float]) -> dict[str, float]:
    """Energy of each element alone, of isolated atoms or the family `atom`; the lowest of several spin states."""
    found: dict[str, float] = {}
    for frame, energy in zip(frames, energies, strict=True):
        if len(frame.atoms) == 1 and (frame.isolated or frame.family == ATOM) and np.isfinite(energy):
            symbol = str(frame.atoms.symbols[0])
            found[symbol] = min(found.get(symbol, np.inf), energy)
    return found


def sides_of(text: str) -> list[list[str]]:
    """Names of the phases on both sides of a reaction.

    Raises:
        InputError: the text is no reaction.
    """
    sides = [[name.strip() for name in side.split("+")] for side in text.split("->")]
    names = [name for side in sides for name in side]
    if len(sides) != 2 or not all(names) or len(set(names)) < len(names):
        raise InputError(f"{text!r} is no reaction; write it as 'Li7P3S11 + Li -> Li2S + Li3P', each phase once")
    return sides


def coefficients(text: str, formulas: Mapping[str, Composition]) -> dict[str, float]:
    """Formula units of each phase in the balanced reaction, below 0 on the left; the smallest is 1.

    Raises:
        InputError: it cannot be balanced, or in more than one way.
    """
    left, right = sides_of(text)
    names = [*left, *right]
    signs = [-1] * len(left) + [1] * len(right)
    units_ = [formulas[name].reduced_composition for name in names]
    elements = sorted({element for unit in units_ for element in unit})
    matrix = np.array([[s * unit[e] for s, unit in zip(signs, units_, strict=True)] for e in elements])
    _, values, rows = np.linalg.svd(matrix)
    free = rows[int((values > SMALL).sum()) :]
    if len(free) != 1:
        why = "cannot be balanced" if not len(free) else "can be balanced in more than one way"
        raise InputError(f"{text!r} {why}; name phases that fix the amounts of all elements")
    amounts = free[0] * np.sign(free[0][np.abs(free[0]).argmax()])
    if amounts.min() < SMALL:
        wrong = ", ".join(name for name, amount in zip(names, amounts, strict=True) if amount < SMALL)
        raise InputError(f"{text!r} cannot be balanced as it stands: {wrong} would be on the other side, or not in it")
    return {name: float(s * a / amounts.min()) for name, s, a in zip(names, signs, amounts, strict=True)}


def reaction(text: str, phases: Mapping[str, State]) -> tuple[str, float | None]:
    """The balanced reaction, and its energy, eV per atom of the reactants; None where a phase is not there.

    Raises:
        InputError: see `coefficients`.
    """
    if not all(name in phases for side in sides_of(text) for name in side):
        return text, None
    amounts = coefficients(text, {name: state.formula for name, state in phases.items()})
    energy, atoms = 0.0, 0.0
    words: dict[float, list[str]] = {-1.0: [], 1.0: []}
    for name, amount in amounts.items():
        share = amount * phases[name].formula.reduced_composition.num_atoms
        energy += share * phases[name].lowest
        atoms -= min(share, 0.0)
        words[np.sign(amount)].append(name if abs(abs(amount) - 1) < SMALL else f"{abs(amount):.4g} {name}")
    return f"{' + '.join(words[-1.0])} -> {' + '.join(words[1.0])}", energy / atoms


def _hull(phases: Mapping[str, State]) -> list[Figure]:
    """Energies of formation and above the hull; nothing where an element has no phase of its own."""
    entries = {
        name: PDEntry(state.formula, state.lowest * state.formula.num_atoms, name=name)
        for name, state in phases.items()
        if np.isfinite(state.lowest)
    }
    elements = {element for entry in entries.values() for element in entry.composition}
    pure = {entry.composition.elements[0] for entry in entries.values() if len(entry.composition) == 1}
    if not entries or elements != pure:
        return []
    diagram = PhaseDiagram(list(entries.values()))
    figures = []
    for name, entry in entries.items():
        if len(entry.composition) > 1:
            formation = 1000 * diagram.get_form_energy_per_atom(entry)
            figures.append(Figure(name, "formation energy", formation, "meV/atom"))
            above = 1000 * float(diagram.get_e_above_hull(entry) or 0.0)
            figures.append(Figure(name, "energy above the hull", above, "meV/atom"))
    return figures
