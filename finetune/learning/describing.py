"""What is said of frames before some are chosen: uncertainty, features, closeness to the reaction front."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator, CalculatorError
from ase.data import chemical_symbols
from ase.neighborlist import neighbor_list
from jaxtyping import Float

from finetune.errors import InputError, unknown
from finetune.potential import Potential
from finetune.sampling.core import atoms_of

SCORES = {"forces_std": "eV/Å", "forces_error": "eV/Å", "gamma": ""}
"""Results of a calculator that say how uncertain the force on an atom is, with their units."""


def check_score(score: str) -> None:
    """Raise `InputError` for a score that nobody gives."""
    if score not in SCORES:
        raise unknown("score", score, SCORES)


def atom_scores(results: Mapping[str, Any], score: str) -> Float[np.ndarray, " atoms"] | None:
    """Uncertainty of each atom out of a calculator's results; None where it does not know.

    Of a spread by direction, the root of the summed variances is taken.
    """
    values = results.get(score)
    if values is None:
        return None
    values = np.asarray(values, dtype=float)
    return np.linalg.norm(values, axis=-1) if values.ndim == 2 else values


def scored(atoms: Atoms, calculator: Calculator, score: str) -> Float[np.ndarray, " atoms"]:
    """Uncertainty of each atom of a structure; infinity where the calculator refuses it.

    Raises:
        InputError: the calculator does not know this score.
    """
    work = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    try:
        calculator.calculate(work)
    except torch.OutOfMemoryError as error:
        raise InputError(f"{len(work)} atoms do not fit into memory ({error}); take fewer workers or atoms") from error
    except (InputError, CalculatorError, ArithmeticError, RuntimeError):
        return np.full(len(atoms), np.inf)
    values = atom_scores(calculator.results, score)
    if values is None:
        raise InputError(f"the calculator gives no {score}; it gives {', '.join(sorted(calculator.results))}")
    return np.where(np.isfinite(values), values, np.inf)


def describe(potential: Potential, frames: Sequence[Atoms]) -> Float[np.ndarray, "frames d"]:
    """Descriptors summed over the atoms of each element, over the number of atoms; elements side by side.

    For a linear potential, these are the derivatives of the energy per atom by the coefficients.
    """
    elements = torch.tensor(sorted(potential.elements & {int(z) for a in frames for z in a.numbers}))
    rows = []
    for atoms in frames:
        graph = potential.collate([potential.graph(atoms)])
        with torch.no_grad():
            values = potential.descriptors(graph).double().cpu()
        hits = (torch.from_numpy(atoms.numbers)[:, None] == elements).double()
        rows.append((hits.T @ values / len(atoms)).flatten())
    return torch.stack(rows).numpy() if rows else np.zeros((0, 1))


def scale(
    features: Float[np.ndarray, "frames d"], taken: Float[np.ndarray, "taken d"]
) -> tuple[np.ndarray, np.ndarray]:
    """Both with columns of unit variance over all frames and a typical distance of 1; constant columns are dropped."""
    together = np.concatenate([features, taken])
    spread = together.std(axis=0)
    varies = spread > 1e-9 * max(float(spread.max(initial=0.0)), 1e-300)
    width = max(int(varies.sum()), 1)
    # two independent rows of unit variance are sqrt(2 d) apart
    scaled = (together - together.mean(axis=0))[:, varies] / spread[varies] / np.sqrt(2 * width)
    if not varies.any():
        scaled = np.zeros((len(together), 1))
    return scaled[: len(features)], scaled[len(features) :]


def ends(reactants: tuple[str, str], *others: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Atomic numbers of two reactants (and others), and the shares of these elements in each reactant.

    Raises:
        InputError: no chemical formula, or two of one composition.
    """
    a, b = (atoms_of(formula) for formula in reactants)
    elements = np.array(sorted({*a.numbers.tolist(), *b.numbers.tolist(), *others}))
    first, second = (np.array([(x.numbers == z).mean() for z in elements]) for x in (a, b))
    if np.allclose(first, second):
        raise InputError(f"the reactants {reactants[0]} and {reactants[1]} have one composition; give two")
    return elements, first, second


def mixing(atoms: Atoms, reactants: tuple[str, str], radius_A: float = 5.0) -> Float[np.ndarray, " atoms"]:
    """How much the surroundings of each atom mix both reactants: 0 within one of them, 1 where it is half and half.

    With c the shares of elements within a radius of the atom, c_A and c_B those of the reactants, t = (c - c_A) (c_B -
    c_A) / |c_B - c_A|², cut to 0 to 1, is how far it is from A to B; 4 t (1 - t) is the mixing.
    """
    elements, first, second = ends(reactants, *atoms.numbers.tolist())
    i, j = neighbor_list("ij", atoms, radius_A)
    own = (atoms.numbers[:, None] == elements).astype(float)
    counts = own.copy()
    np.add.at(counts, i, own[j])
    shares = counts / counts.sum(axis=1, keepdims=True)
    step = second - first
    t = np.clip((shares - first) @ step / (step @ step), 0.0, 1.0)
    return np.asarray(4 * t * (1 - t))


def closeness(atoms: Atoms, scores: Float[np.ndarray, " atoms"], reactants: tuple[str, str] | None) -> float:
    """Mixing averaged over the atoms, each weighted by its uncertainty; 1 where no reactants are named."""
    if reactants is None:
        return 1.0
    weights = np.where(np.isfinite(scores), scores, 0.0)
    values = mixing(atoms, reactants)
    return float(weights @ values / weights.sum()) if weights.sum() > 0 else float(values.mean())


def worst(atoms: Atoms, scores: Float[np.ndarray, " atoms"]) -> str:
    """The most uncertain atom in words: `S 12`."""
    k = int(scores.argmax())
    return f"{chemical_symbols[atoms.numbers[k]]} {k}"
