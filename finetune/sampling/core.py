"""What samplers share: the chain that they form, its randomness, and the limits beyond which a frame is absurd."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

from finetune.errors import InputError, unknown_element

LONGEST_BAD_RUN = 500  # frames rejected one after the other before a recipe gives up


@dataclass(frozen=True)
class Limits:
    """Beyond these a frame is absurd and is rejected with its reason.

    Attributes:
        closest: smallest distance of two atoms over the sum of their covalent radii.
        densest: largest volume of the covalent spheres over the volume of the cell.
        sparsest_A3: largest volume per atom, Å³.
        isolated_A: an atom without a neighbour within this distance, Å, is isolated; None allows isolated atoms.
        force: largest force on an atom, eV/Å.
        tension: largest mean normal stress, eV/Å³; no solid bears more, so a potential that says so has a hole there.
    """

    closest: float = 0.6
    densest: float = 1.0
    sparsest_A3: float = 60.0
    isolated_A: float | None = 5.0
    force: float = 30.0
    tension: float = 0.15

    def reason(self, atoms: Atoms) -> str | None:
        """Why a structure, and its forces where it has some, is absurd; None if it is not."""
        if not (np.isfinite(atoms.positions).all() and np.isfinite(atoms.cell.array).all()):
            return "not finite"
        radii = covalent_radii[atoms.numbers]
        if atoms.cell.rank == 3 and (4 / 3 * np.pi * radii**3).sum() / atoms.get_volume() > self.densest:
            return "too dense"
        if atoms.cell.rank == 3 and atoms.get_volume() / len(atoms) > self.sparsest_A3:
            return "too sparse"
        i, j, distances = neighbor_list("ijd", atoms, self.isolated_A or 2 * self.closest * float(radii.max()))
        if self.isolated_A is not None and len(np.unique(i)) < len(atoms):
            return "isolated atom"
        if (distances < self.closest * (radii[i] + radii[j])).any():
            return "atoms too close"
        if not labelled(atoms):
            return None
        if (
            not np.linalg.norm(atoms.get_forces(apply_constraint=False), axis=1).max() <= self.force
        ):  # NaN is rejected too
            return f"force above {self.force:g} eV/Å"
        if "stress" in atoms.calc.results and not atoms.get_stress(apply_constraint=False)[:3].mean() <= self.tension:
            return f"tension above {self.tension:g} eV/Å³"
        return None


@dataclass
class Context:
    """What a chain of samplers shares while it runs: its randomness, its calculator and its limits.

    Attributes:
        rng: where all random numbers come from.
        calculator: what runs the dynamics and labels; None where nothing of it is wanted.
        limits: beyond these a frame is absurd.
        labels: whether frames that carry no results are labelled by the calculator.
    """

    rng: np.random.Generator
    calculator: BaseCalculator | None = None
    limits: Limits = field(default_factory=Limits)
    labels: bool = True

    def calculator_for(self, sampler: Sampler) -> BaseCalculator:
        """The calculator, or `InputError` where the sampler needs one and there is none."""
        if self.calculator is None:
            raise InputError(f"{type(sampler).__name__} needs a calculator and has none; name a model by `calculator`")
        return self.calculator


class Sampler(ABC):
    """Takes frames and yields frames, reproducibly from the context's randomness.

    A source takes none and never ends, unless it is listed: then it yields what it has, in order and once. A frame that
    is absurd is handed on as it is: the recipe rejects and counts it.
    """

    listed = False

    @abstractmethod
    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """New frames; `info` carries `group`, the identity of the parent, and `made_by`, the way from it."""


def named(kind: str, made_by: str) -> str:
    """The name of a group that begins with this frame: what it is, and a hash of how it was made."""
    return f"{kind}-{hashlib.sha256(made_by.encode()).hexdigest()[:8]}"


@dataclass(frozen=True)
class Recipe:
    """A family of frames and the chain of samplers that makes it.

    Attributes:
        family: what the frames are: crystal, melt, amorphous, interface, ...
        samplers: a source and what is done to its frames, in order.
        frames: how many accepted frames are wanted.
        chunk: frames per part file; every chunk has its own random numbers.
        limits: limits of this family; None for those of the command.
    """

    family: str
    samplers: list[Sampler]
    frames: int
    chunk: int = 50
    limits: Limits | None = None

    def __post_init__(self) -> None:
        at_least(self, frames=1, chunk=1)

    def sample(self, context: Context) -> Iterator[tuple[Atoms, str | None]]:
        """Frames without end, labelled where accepted, each with the reason for its rejection or None."""
        if self.samplers and self.samplers[0].listed and self.frames > self.chunk:
            listed = type(self.samplers[0]).__name__
            raise InputError(f"recipe {self.family!r}: every chunk begins {listed} anew; set `chunk` to {self.frames}")
        context = replace(context, limits=self.limits or context.limits)
        stream: Iterable[Atoms] = ()
        for sampler in self.samplers:
            stream = sampler.frames(stream, context)
        bad = 0
        for atoms in stream:
            atoms.info["family"] = self.family
            reason = context.limits.reason(atoms)
            if reason is None and context.labels and context.calculator is not None and not labelled(atoms):
                reason = label(atoms, context)
            bad = bad + 1 if reason else 0
            if bad == LONGEST_BAD_RUN:
                raise InputError(f"recipe {self.family!r}: {bad} frames in a row rejected, the last one for: {reason}")
            yield atoms, reason


def collect(recipe: Recipe, context: Context, frames: int) -> tuple[list[Atoms], Counter[str]]:
    """So many accepted frames of a recipe, and how many were rejected by reason.

    Raises:
        InputError: the recipe ends before, or rejects too many frames in a row.
    """
    accepted: list[Atoms] = []
    rejected: Counter[str] = Counter()
    stream = recipe.sample(context)
    while len(accepted) < frames:
        atoms, reason = next(stream, (None, None))
        if atoms is None:
            so_far = f"{len(accepted)} of {frames} frames"
            raise InputError(
                f"recipe {recipe.family!r} ended after {so_far}; begin its samplers with a source, or ask for fewer"
            )
        if reason:
            rejected[reason] += 1
        else:
            accepted.append(atoms)
    return accepted, rejected


def labelled(atoms: Atoms) -> bool:
    """Whether the frame carries results of its own, made by a calculator for exactly this structure."""
    return isinstance(atoms.calc, SinglePointCalculator) and "forces" in atoms.calc.results


def frozen(atoms: Atoms, calculator: BaseCalculator) -> Atoms:
    """A copy that keeps energy (eV), forces (eV/Å) and, with a cell, stress (eV/Å³), computed if they are not yet.

    They are those of the calculator, without constraints: a fixed atom has a force too.
    """
    atoms.calc = calculator
    results = {
        "energy": float(atoms.get_potential_energy(apply_constraint=False)),
        "forces": np.asarray(atoms.get_forces(apply_constraint=False), dtype=float),
    }
    if atoms.cell.rank == 3 and "stress" in calculator.implemented_properties:
        results["stress"] = np.asarray(atoms.get_stress(apply_constraint=False), dtype=float)
    copy = atoms.copy()
    copy.calc = SinglePointCalculator(copy, **results)
    return copy


def label(atoms: Atoms, context: Context) -> str | None:
    """Put energy, forces and stress on a frame; the reason where the calculator refuses it or its forces are absurd."""
    assert context.calculator is not None
    try:
        results = frozen(atoms, context.calculator).calc.results
    except InputError as refusal:
        return f"refused by the calculator: {refusal}"
    atoms.calc = SinglePointCalculator(atoms, **results)
    return context.limits.reason(atoms)


def child(atoms: Atoms, made_by: str) -> Atoms:
    """A copy without results or velocities, with one more step in the story of how it was made."""
    copy = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
    copy.info["made_by"] = " > ".join(filter(None, [atoms.info.get("made_by"), made_by]))
    return copy


def atoms_of(formula: str) -> Atoms:
    """The atoms of a chemical formula, without places.

    Raises:
        InputError: it is none.
    """
    try:
        return Atoms(formula)
    except (KeyError, ValueError, MemoryError) as error:
        raise InputError(f"{formula!r} is no chemical formula; write it like Li7P3S11") from error


def number_of(symbol: str) -> int:
    """The atomic number of an element.

    Raises:
        InputError: there is no such element.
    """
    if symbol not in atomic_numbers:
        raise unknown_element(symbol)
    return int(atomic_numbers[symbol])


def at_least(owner: object, **least: int | float) -> None:
    """Refuse settings that are below the least, have such an entry, or are empty lists; None is let pass.

    Args:
        owner: what has the settings.
        least: the smallest number that each may be.

    Raises:
        InputError: which, what it is, and what it may be.
    """
    for name, low in least.items():
        value = getattr(owner, name)
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        if value == ():
            raise InputError(f"`{name}` of {type(owner).__name__} is empty; name one or more")
        if not all(v >= low for v in values if not isinstance(v, str | tuple | dict)):
            shown = list(value) if isinstance(value, tuple) else value
            raise InputError(f"`{name}` of {type(owner).__name__} is {shown}; give {low:g} or more")


def spans(owner: object, **least: int | float) -> None:
    """Refuse a smallest and a largest number in reverse or below the least; None is let pass.

    Raises:
        InputError: which, and what they are.
    """
    at_least(owner, **least)
    for name in least:
        value = getattr(owner, name)
        if value is not None and value[0] > value[1]:
            whose = f"`{name}` of {type(owner).__name__}"
            raise InputError(f"{whose}: {list(value)} are the smallest and the largest; give them in this order")


def drawn(rng: np.random.Generator, between: tuple[int, int]) -> int:
    """A whole number between two, both included."""
    return int(rng.integers(between[0], between[1] + 1))
