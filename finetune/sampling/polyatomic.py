"""Packing of molecular units and single atoms, and the coordination that shows whether the units survived."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list
from scipy.spatial.transform import Rotation
from vesin import NeighborList

from finetune.data.reading import UNREADABLE
from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, named, number_of, spans
from finetune.sampling.molecules import molecules
from finetune.sampling.packing import numbers_mass, random_shape

OVERLAP_A = 0.02  # distances may be shorter than asked for by this much
GIVES_WAY = 0.97  # factor of all distances after each failed attempt
STALLED = 40  # steps after which the penalty must have fallen by a tenth
LEAST = 0.7  # smallest such factor; below it the cell is too small


@dataclass(frozen=True)
class PackedUnits(Sampler):
    """Random packing of rigid molecular units and single atoms at a density, without end.

    Units have random places and orientations. Overlaps are removed by moving and turning the units along the gradient
    of a penalty, as packmol does (10.1002/jcc.21224). Where they do not fit, all distances shrink by 3 % at a time; the
    density stays.

    Attributes:
        units: the file of each unit by a name of your choice. An XYZ file without a cell is the unit; in a crystal, it
            is the first bonded component whose formula is the name. An element symbol needs no file: it is one atom.
        cells: numbers of units per cell, by name; one cell is drawn per frame.
        density_g_cm3: lowest and highest density, g/cm³.
        distances_A: smallest distance of two elements in different units (`S-S: 3.1`), Å.
        closest: smallest distance of all other pairs over the sum of covalent radii.
        bonds: longest bond of two elements (`P-S: 2.6`), Å; needed to find the units of a crystal.
    """

    cells: tuple[dict[str, int], ...]
    density_g_cm3: tuple[float, float]
    units: dict[str, Path] = field(default_factory=dict)
    distances_A: dict[str, float] = field(default_factory=dict)
    closest: float = 0.95
    bonds: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(self, cells=0, closest=0.01)
        spans(self, density_g_cm3=0.01)
        pair_lengths(self.distances_A), pair_lengths(self.bonds)
        for cell in self.cells:
            if not cell or min(cell.values()) < 0 or not sum(cell.values()):
                raise InputError(
                    f"`cells` of PackedUnits: got {cell}, expected numbers of units. Give 1 or more of one."
                )

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Packed cells; every one is a group of its own."""
        rng = context.rng
        names = dict.fromkeys(name for cell in self.cells for name in cell)
        unit = {name: self.unit(name) for name in names}
        while True:
            counts = self.cells[rng.integers(len(self.cells))]
            density = rng.uniform(*self.density_g_cm3)
            atoms, shrunk = self.pack([unit[name] for name, n in counts.items() for _ in range(n)], density, rng)
            content = " ".join(f"{n} {name}" for name, n in counts.items() if n)
            made_by = (
                f"PackedUnits({content}, {density:.3f} g/cm³, distances x {shrunk:.2f}, {rng.integers(2**32):08x})"
            )
            atoms.info.update(group=named(f"packed-{atoms.get_chemical_formula()}", made_by), made_by=made_by)
            yield atoms

    def unit(self, name: str) -> Atoms:
        """The atoms of a unit around its centre, Å.

        Raises:
            InputError: the name has no file and is no element, or the file has no such unit.
        """
        if name not in self.units:
            if name not in atomic_numbers:
                known = ", ".join([*self.units, "element symbols"])
                raise InputError(f"`cells` of PackedUnits: got {name!r}, expected {known}. Name its file in `units`.")
            return Atoms([number_of(name)], [[0.0, 0.0, 0.0]])
        path = self.units[name]
        if not path.is_file():
            raise InputError(f"unit {name}: no file {path}. Correct `units`.")
        try:
            found: Atoms = ase.io.read(path)  # type: ignore[assignment]
        except UNREADABLE as error:
            raise InputError(f"unit {name}: cannot read {path} ({error or type(error).__name__}).") from error
        if found.pbc.any():
            found = component(found, self.bonds, name, path)
        return Atoms(found.numbers, found.positions - found.positions.mean(axis=0))

    def pack(self, parts: list[Atoms], density: float, rng: np.random.Generator) -> tuple[Atoms, float]:
        """Units in a random cell of this density (g/cm³), and the factor by which the distances had to shrink.

        Raises:
            InputError: they do not fit at 0.7 of the distances.
        """
        numbers = np.concatenate([part.numbers for part in parts])
        edge = (numbers_mass(numbers) / density) ** (1 / 3)
        distances = least_distances(set(numbers.tolist()), pair_lengths(self.distances_A), self.closest)
        shrunk = 1.0
        while shrunk > LEAST:
            least = {pair: shrunk * distance for pair, distance in distances.items()}
            atoms = fitted(parts, random_shape(rng) * edge, least, rng)
            if atoms is not None:
                return atoms, shrunk
            shrunk *= GIVES_WAY
        raise InputError(f"PackedUnits: {density:.2f} g/cm³ is too dense for the distances. Lower `density_g_cm3`.")


@dataclass(frozen=True)
class Coordination(Sampler):
    """The coordination of an element, written into `info`; frames pass as they are.

    `coordination_P_S="4:0.67 3:0.33"` means that two thirds of the P atoms have four S neighbours, one third has three.

    Attributes:
        centre: element whose neighbours are counted.
        ligands: elements of the neighbours; all of them count together.
        cutoff_A: largest distance of a neighbour, Å.
    """

    centre: str
    ligands: tuple[str, ...]
    cutoff_A: float

    def __post_init__(self) -> None:
        at_least(self, ligands=0, cutoff_A=0.01)
        for symbol in (self.centre, *self.ligands):
            number_of(symbol)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """The frames with `coordination_CENTRE_LIGANDS` in `info`, the most frequent number first."""
        key = "_".join(["coordination", self.centre, *self.ligands])
        for atoms in parents:
            counts = Counter(coordination(atoms, self.centre, self.ligands, self.cutoff_A).tolist())
            if counts:
                atoms.info[key] = " ".join(f"{n}:{k / counts.total():.3g}" for n, k in counts.most_common())
            yield atoms


def coordination(atoms: Atoms, centre: str, ligands: Iterable[str], cutoff_A: float) -> np.ndarray:
    """Number of ligand atoms within a distance (Å) of each atom of the centre's element, shape (centres,)."""
    i, j = neighbor_list("ij", atoms, cutoff_A)
    counted = np.isin(atoms.numbers[j], [atomic_numbers[ligand] for ligand in ligands])
    return np.bincount(i[counted], minlength=len(atoms))[atoms.symbols == centre]


def component(crystal: Atoms, bonds: Mapping[str, float], formula: str, path: Path) -> Atoms:
    """The first bonded component of a crystal with a formula, its atoms in one piece.

    Raises:
        InputError: no bonds, or no such component.
    """
    if not bonds:
        raise InputError(f"unit {formula}: {path} is a crystal and `bonds` is empty. Give bond lengths (P-S: 2.6).")
    member, offsets = molecules(crystal, bonds)
    formulas = []
    for k in np.unique(member):
        part = Atoms(crystal.numbers[member == k], offsets[member == k])
        if part.symbols.formula.count() == Atoms(formula).symbols.formula.count():
            return part
        formulas.append(part.get_chemical_formula())
    have = ", ".join(sorted(set(formulas)))
    raise InputError(f"unit {formula}: got {have} in {path}, expected {formula}. Change `bonds` or the name.")


def pair_lengths(lengths: Mapping[str, float]) -> dict[tuple[int, int], float]:
    """Lengths (Å) by atomic numbers, smaller first, of lengths by names of pairs such as `P-S`.

    Raises:
        InputError: a name is no pair of elements, or a length is not above 0.
    """
    found = {}
    for pair, length in lengths.items():
        symbols = pair.split("-")
        if len(symbols) != 2 or not length > 0:
            raise InputError(f"pair {pair!r}: got {length}, expected two elements and a length, Å. Write P-S: 2.6.")
        one, two = sorted(number_of(symbol) for symbol in symbols)
        found[one, two] = float(length)
    return found


def least_distances(
    numbers: set[int], given: Mapping[tuple[int, int], float], closest: float
) -> dict[tuple[int, int], float]:
    """Smallest distance (Å) of each pair of elements: given, or a fraction of the sum of covalent radii."""
    pairs = [(a, b) for a in sorted(numbers) for b in sorted(numbers) if a <= b]
    return {(a, b): given.get((a, b), closest * (covalent_radii[a] + covalent_radii[b])) for a, b in pairs}


def fitted(
    parts: list[Atoms],
    cell: np.ndarray,
    least: dict[tuple[int, int], float],
    rng: np.random.Generator,
    steps: int = 400,
) -> Atoms | None:
    """Rigid units at random places, moved and turned until no distance is too short; None if that fails.

    Args:
        parts: the units, each around its centre.
        cell: cell vectors, Å, shape (3, 3).
        least: smallest distance of atoms of different units, Å, by atomic numbers, smaller first.
        rng: source of places and orientations.
        steps: most steps of the descent.
    """
    numbers = np.concatenate([part.numbers for part in parts])
    owner = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    arms = np.concatenate([part.positions @ Rotation.random(random_state=rng).as_matrix().T for part in parts])
    centres = rng.random((len(parts), 3)) @ cell
    inertia = np.maximum(np.bincount(owner, (arms**2).sum(axis=1)), 1.0)
    size = np.bincount(owner)
    distance_of = np.zeros((numbers.max() + 1, numbers.max() + 1))
    for (one, two), distance in least.items():
        distance_of[one, two] = distance_of[two, one] = distance
    neighbours = NeighborList(cutoff=float(distance_of.max()), full_list=True)
    last = np.inf
    for step in range(steps):
        i, j, vectors, distances, shifts = neighbours.compute(centres[owner] + arms, cell, True, "ijDdS")
        overlap = distance_of[numbers[i], numbers[j]] - distances
        apart = (owner[i] != owner[j]) | (shifts != 0).any(axis=1)  # a unit may meet its own images, not itself
        near = apart & (overlap > 0)
        if not (overlap[near] > OVERLAP_A).any():
            return Atoms(numbers, centres[owner] + arms, cell=cell, pbc=True)
        if step % STALLED == 0:
            penalty = float((overlap[near] ** 2).sum())
            if penalty > 0.9 * last:
                return None
            last = penalty
        push = -vectors[near] * (overlap[near] / np.maximum(distances[near], 1e-6) / 2)[:, None]
        force = np.zeros_like(arms)
        np.add.at(force, i[near], push)
        torque = summed(np.cross(arms, force), owner)
        centres += summed(force, owner) / np.sqrt(size)[:, None]
        turn = Rotation.from_rotvec(torque / inertia[:, None]).as_matrix()
        arms = np.einsum("aij,aj->ai", turn[owner], arms)
    return None


def summed(per_atom: np.ndarray, owner: np.ndarray) -> np.ndarray:
    """Sums of vectors over the atoms of each unit, shape (units, 3)."""
    return np.stack([np.bincount(owner, column) for column in per_atom.T], axis=1)
