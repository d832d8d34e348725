"""Guards that look at how atoms fill space and hang together: voids, phases, atoms that leave, lost bonds."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.geometry import complete_cell
from ase.neighborlist import neighbor_list
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from finetune.errors import InputError
from finetune.md.guards import Alarm, Guard
from finetune.md.snapshot import Snapshot


@dataclass(frozen=True, kw_only=True)
class Voids(Guard):
    """Space opens that no atom fills.

    Attributes:
        growth_A: largest growth of the radius of the largest empty sphere (to the nearest nuclei) over the start, Å.
        probe_A: radius of a probe; places farther from every nucleus than this are void, Å.
        share: largest growth of the share of the cell that is void.
        spacing_A: distance of the points that are tried, Å; a radius is too small by less than that.
    """

    growth_A: float = 1.5
    probe_A: float = 3.5
    share: float = 0.05
    spacing_A: float = 0.8
    every: int = 500

    def check_settings(self) -> None:
        """Points have a distance."""
        super().check_settings()
        if not self.spacing_A > 0:
            raise InputError(f"{self} cannot work; spacing_A is a distance in Å")

    def reference(self, start: Snapshot) -> tuple[float, float]:
        """Radius (Å) and void share of the start."""
        return self.measure(start.atoms)[:2]

    def check(self, now: Snapshot, reference: tuple[float, float]) -> Alarm | None:
        """Compare."""
        radius, share, centre = self.measure(now.atoms)
        if radius - reference[0] > self.growth_A:
            place = ", ".join(f"{x:.1f}" for x in centre)
            return self.alarm(
                f"an empty sphere of {radius:.1f} Å has opened at ({place}) Å; {reference[0]:.1f} Å at the start "
                f"(limit {self.growth_A:g} more)"
            )
        if share - reference[1] > self.share:
            return self.alarm(
                f"{100 * share:.0f} % of the cell is farther than {self.probe_A:g} Å from any atom; "
                f"{100 * reference[1]:.0f} % at the start (limit {100 * self.share:g} % more)"
            )
        return None

    def measure(self, atoms: Atoms) -> tuple[float, float, np.ndarray]:
        """Radius of the largest empty sphere (Å), share of the cell beyond the probe, centre of the sphere (Å).

        Without a cell, the smallest box around the atoms is taken.
        """
        boxed = atoms.copy()
        missing = [k for k in range(3) if not boxed.cell.array[k].any()]
        if missing:
            boxed.center(vacuum=0.1, axis=missing)
        counts = np.maximum(np.ceil(boxed.cell.lengths() / self.spacing_A).astype(int), 1)
        points = [(np.arange(n) + 0.5) / n for n in counts]
        grid = np.stack(np.meshgrid(*points, indexing="ij"), axis=-1).reshape(-1, 3) @ boxed.cell.array
        width = 4.0
        distances = cKDTree(with_images(boxed, width)[0]).query(grid)[0]
        while distances.max() > width and boxed.pbc.any():  # farther images may be nearer than what was found
            width *= 2
            distances = cKDTree(with_images(boxed, width)[0]).query(grid)[0]
        largest = int(distances.argmax())
        return float(distances[largest]), float((distances > self.probe_A).mean()), grid[largest]


@dataclass(frozen=True, kw_only=True)
class PhaseSeparation(Guard):
    """Elements gather with their own kind, or matter gathers in some places.

    Around every atom, all atoms within `radius_A` are counted. The demixing of an element is the share of its own kind
    among the neighbours of its atoms over its share in the structure. A run that begins with two phases begins demixed.

    Attributes:
        radius_A: of the neighbourhood, Å.
        demixing: largest growth of the demixing of an element, as a factor.
        density: largest growth of the standard deviation of the local density over the mean.
        composition: largest growth of the root-mean-square deviation of the local shares of elements from the mean.
    """

    radius_A: float = 6.0
    demixing: float = 1.5
    density: float = 0.2
    composition: float = 0.12
    every: int = 500

    def reference(self, start: Snapshot) -> dict[str, Any]:
        """Measures of the start."""
        return self.measure(start.atoms)

    def check(self, now: Snapshot, reference: dict[str, Any]) -> Alarm | None:
        """Compare."""
        measures = self.measure(now.atoms)
        for symbol, before in reference["demixing"].items():
            value = measures["demixing"][symbol]
            if value > self.demixing * max(before, 1.0):
                return self.alarm(
                    f"{symbol} gathers: {value:.2f} times its share around its own kind, {before:.2f} at the start "
                    f"(limit {self.demixing:g} times)",
                    np.flatnonzero(now.atoms.symbols == symbol),
                )
        for name, limit in (("density", self.density), ("composition", self.composition)):
            if measures[name] - reference[name] > limit:
                return self.alarm(
                    f"the local {name} varies by {measures[name]:.2f}, {reference[name]:.2f} at the start "
                    f"(limit {limit:g} more)"
                )
        return None

    def measure(self, atoms: Atoms) -> dict[str, Any]:
        """Demixing by element, relative deviation of the local density, deviation of the local composition."""
        positions, owner = with_images(atoms, self.radius_A)
        tree = cKDTree(positions[: len(atoms)])
        pairs = tree.sparse_distance_matrix(cKDTree(positions), self.radius_A, output_type="coo_matrix")
        near = pairs.data > 1e-8
        i, j = pairs.row[near], owner[pairs.col[near]]
        elements = np.unique(atoms.numbers)
        counts = np.stack(
            [np.bincount(i[atoms.numbers[j] == z], minlength=len(atoms)) for z in elements], axis=1
        ).astype(float)
        total = counts.sum(axis=1)
        shares = counts / np.maximum(total, 1.0)[:, None]
        whole = np.array([(atoms.numbers == z).mean() for z in elements])
        demixing = {}
        for k, z in enumerate(elements):
            members = atoms.numbers == z
            around = counts[members, k].sum() / max(total[members].sum(), 1.0)
            demixing[chemical_symbols[z]] = float(around / whole[k])
        density = float(total.std() / max(total.mean(), 1e-12))
        composition = float(np.sqrt(np.square(shares - whole).sum(axis=1).mean()))
        return {"demixing": demixing, "density": density, "composition": composition}


@dataclass(frozen=True, kw_only=True)
class Evaporated(Guard):
    """Atoms have left the largest cluster.

    Attributes:
        distance_A: atoms that are nearer than this to each other belong together, Å.
    """

    distance_A: float = 5.0
    every: int = 100

    def reference(self, start: Snapshot) -> np.ndarray:
        """Which atoms were outside at the start."""
        return self._outside(start)

    def check(self, now: Snapshot, reference: np.ndarray) -> Alarm | None:
        """Atoms that were in it at the start and are not now."""
        gone = np.flatnonzero(self._outside(now) & ~reference)
        if not len(gone):
            return None
        return self.alarm(f"{named(now, gone)}: farther than {self.distance_A:g} Å from all the rest", gone)

    def _outside(self, snapshot: Snapshot) -> np.ndarray:
        n = len(snapshot.atoms)
        i, j = neighbor_list("ij", snapshot.atoms, self.distance_A)
        _, cluster = connected_components(coo_array((np.ones(len(i)), (i, j)), shape=(n, n)), directed=False)
        return cluster != np.bincount(cluster).argmax()


@dataclass(frozen=True, kw_only=True)
class LostBonding(Guard):
    """Atoms of one element lose their neighbours of another, P its S for example.

    Attributes:
        centre: element whose neighbours are counted.
        ligand: element of the neighbours.
        cutoff_A: length of a bond at most, Å.
        fraction: smallest mean coordination over that of the start.
    """

    centre: str
    ligand: str
    cutoff_A: float
    fraction: float = 0.7
    every: int = 100

    def check_settings(self) -> None:
        """Elements are chemical symbols."""
        super().check_settings()
        for symbol in (self.centre, self.ligand):
            if symbol not in chemical_symbols:
                raise InputError(f"LostBonding knows no element {symbol!r}; give chemical symbols")

    def reference(self, start: Snapshot) -> np.ndarray:
        """Coordination of each centre at the start."""
        return self._coordination(start)

    def check(self, now: Snapshot, reference: np.ndarray) -> Alarm | None:
        """Compare the means."""
        if not len(reference) or not reference.mean():
            return None
        coordination = self._coordination(now)
        if coordination.mean() >= self.fraction * reference.mean():
            return None
        centres = np.flatnonzero(now.atoms.symbols == self.centre)
        return self.alarm(
            f"{self.centre} has {coordination.mean():.2f} {self.ligand} within {self.cutoff_A:g} Å, "
            f"{reference.mean():.2f} at the start (limit {self.fraction:g} of that)",
            centres[coordination < reference],
        )

    def _coordination(self, snapshot: Snapshot) -> np.ndarray:
        pair = {(self.centre, self.ligand): self.cutoff_A}
        centres = np.flatnonzero(snapshot.atoms.symbols == self.centre)
        i = neighbor_list("i", snapshot.atoms, pair)
        return np.bincount(i, minlength=len(snapshot.atoms))[centres]


def named(now: Snapshot, atoms: np.ndarray, most: int = 5) -> str:
    """Symbols and indices of atoms, the first few."""
    words = ", ".join(f"{now.atoms.symbols[i]} {i}" for i in atoms[:most])
    return words if len(atoms) <= most else f"{words} and {len(atoms) - most} more"


def with_images(atoms: Atoms, width_A: float) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the atoms, then of all periodic images within a distance (Å) of the cell; which atom each one is."""
    owner = np.arange(len(atoms))
    if not atoms.pbc.any():
        return atoms.get_positions(), owner
    positions, cell = atoms.get_positions(wrap=True), complete_cell(atoms.cell)
    inverse = np.linalg.inv(cell)
    margin = np.where(atoms.pbc, width_A * np.linalg.norm(inverse, axis=0), 0.0)
    reach = np.ceil(margin).astype(int)
    shifts = sorted(itertools.product(*(range(-n, n + 1) for n in reach)), key=lambda shift: shift != (0, 0, 0))
    images = (positions[None] + (np.array(shifts) @ cell)[:, None]).reshape(-1, 3)
    fractions = images @ inverse
    keep = ((fractions > -margin) & (fractions < 1 + margin) | ~atoms.pbc).all(axis=1)
    keep[: len(atoms)] = True
    return images[keep], np.tile(owner, len(shifts))[keep]
