"""Coherent interfaces: two crystals cut along planes whose lattices match, one strained to the other."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms
from ase.build import make_supercell

from finetune.errors import InputError
from finetune.sampling.core import Context, Sampler, at_least, drawn, named, spans
from finetune.sampling.crystals import composition
from finetune.sampling.slabs import Face, crystals_of, slab, structure, touching

LONGEST_SEARCH = 200  # draws without an interface before the sampler gives up


@dataclass(frozen=True)
class Matching:
    """How well two planes must match (Zur and McGill, 10.1063/1.333084).

    Attributes:
        area_A2: largest area of the shared cell, Å².
        area_ratio: largest difference of the ratio of areas.
        length: largest relative difference of lengths.
        angle: largest relative difference of angles.
        strain: largest principal strain in the plane.
    """

    area_A2: float = 160.0
    area_ratio: float = 0.09
    length: float = 0.05
    angle: float = 0.05
    strain: float = 0.1


@dataclass(frozen=True)
class Match:
    """Supercells of two slabs in the plane and the lattice that they share.

    Attributes:
        lower: supercell of the lower slab, 2x2 integers.
        upper: supercell of the upper slab, 2x2 integers.
        plane_A: shared in-plane vectors (2x2), the first one along x, Å.
        strains: principal strains of the lower and of the upper slab, 2x2.
    """

    lower: np.ndarray
    upper: np.ndarray
    plane_A: np.ndarray
    strains: np.ndarray


@dataclass(frozen=True)
class Coherent(Sampler):
    """Interfaces of two crystals by Miller index and termination, without end.

    The strained crystal keeps its volume: what it loses in the plane it gains along the normal.

    Attributes:
        folder: where the CIF files lie.
        lower: the crystal below and its faces.
        upper: the crystal above and its faces.
        matching: how well the planes must match.
        strained: who takes the lattice of the other: the soft one, best put above; or both the mean.
        gap: smallest and largest gap: the shortest distance of two atoms across the interface over the sum of their
            covalent radii (10.1039/b801115j). Bonds have about 1, contacts of atoms that do not bond more.
        gap_A: the same in Å, for any pair of atoms, in place of `gap`.
        vacuum_A: vacuum above the upper crystal, Å; 0 makes a second interface there.
        atoms: smallest and largest number of atoms before `repeat`.
        repeat: how often the finished cell is repeated in the plane, for large cells.
    """

    folder: Path
    lower: Face = field(default_factory=lambda: Face("Li2S"))
    upper: Face = field(default_factory=lambda: Face("Li"))
    matching: Matching = field(default_factory=Matching)
    strained: Literal["lower", "upper", "both"] = "upper"
    gap: tuple[float, float] = (0.9, 1.2)
    gap_A: tuple[float, float] | None = None
    vacuum_A: float = 0.0
    atoms: tuple[int, int] = (1, 80)
    repeat: tuple[int, int] = (1, 1)

    def __post_init__(self) -> None:
        at_least(self, vacuum_A=0, repeat=1)
        spans(self, gap=0, gap_A=0, atoms=1)

    def frames(self, parents: Iterable[Atoms], context: Context) -> Iterator[Atoms]:
        """Interfaces; every one is a group of its own, named by the pair of crystals."""
        rng = context.rng
        tried = 0
        while tried < LONGEST_SEARCH:
            tried += 1
            paths = [str(rng.choice(crystals_of(self.folder, face.crystal))) for face in (self.lower, self.upper)]
            millers = [face.miller[rng.integers(len(face.miller))] for face in (self.lower, self.upper)]
            found = planes(*paths, *millers, self.lower.conventional, self.upper.conventional, self.matching)
            if not found.zsl_matches:
                continue
            shifts = self.terminations(found, rng)
            below = slab(paths[0], millers[0], shifts[0], self.lower, drawn(rng, self.lower.layers))
            above = slab(paths[1], millers[1], shifts[1], self.upper, drawn(rng, self.upper.layers))
            matches = self.fitting(found, below, above)
            if not matches:
                continue
            yield self.joined(below, above, matches[rng.integers(len(matches))], context)
            tried = 0
        raise InputError(
            f"no interface of {self.lower.crystal} and {self.upper.crystal} has {self.atoms[0]} to {self.atoms[1]} "
            f"atoms, at most {self.matching.area_A2:g} Å² and a strain of at most {self.matching.strain:g}; "
            "raise `atoms` or a limit of `matching`"
        )

    def terminations(self, found: Any, rng: np.random.Generator) -> tuple[float, float]:
        """Where the lower and the upper crystal are cut, as fractions of their oriented cells."""
        shifts = found._terminations.values()  # pymatgen shows the labels of the terminations only
        uppers, lowers = (sorted(set(of_crystal)) for of_crystal in zip(*shifts, strict=True))
        return self.lower.cut(lowers, rng), self.upper.cut(uppers, rng)

    def fitting(self, found: Any, below: Atoms, above: Atoms) -> list[Match]:
        """The matches that keep to the strain and the number of atoms."""
        matches = []
        for zsl in found.zsl_matches:
            match = self.match(zsl, below, above)
            atoms = len(below) * abs(np.linalg.det(match.lower)) + len(above) * abs(np.linalg.det(match.upper))
            in_size = self.atoms[0] <= round(atoms) <= self.atoms[1]
            if in_size and np.abs(match.strains).max() <= self.matching.strain + 1e-9:
                matches.append(match)
        return matches

    def match(self, zsl: Any, below: Atoms, above: Atoms) -> Match:
        """A match in our terms, with the lattice that `strained` chooses."""
        own = [flat(vectors) for vectors in (zsl.substrate_sl_vectors, zsl.film_sl_vectors)]
        plane = {"upper": own[0], "lower": own[1], "both": (own[0] + own[1]) / 2}[self.strained]
        strains = [np.linalg.svd(np.linalg.solve(mine, plane))[1] - 1 for mine in own]
        below_by, above_by = (
            np.rint(np.asarray(vectors) @ np.linalg.pinv(atoms.cell.array[:2])).astype(int)
            for vectors, atoms in ((zsl.substrate_sl_vectors, below), (zsl.film_sl_vectors, above))
        )
        return Match(below_by, above_by, plane, np.array(strains))

    def joined(self, below: Atoms, above: Atoms, match: Match, context: Context) -> Atoms:
        """One cell out of two slabs on the shared lattice, the upper one shifted at random in the plane."""
        rng = context.rng
        lower, upper = on_plane(below, match.lower, match.plane_A), on_plane(above, match.upper, match.plane_A)
        upper.positions[:, :2] += rng.random(2) @ match.plane_A
        by_radii = self.gap_A is None
        gaps = rng.uniform(*(self.gap_A or self.gap), size=2)
        upper.positions[:, 2] += touching(lower, upper, gaps[0], by_radii)
        height = np.ptp(np.r_[lower.positions[:, 2], upper.positions[:, 2]]) + self.vacuum_A
        if not self.vacuum_A:
            height = touching(upper, lower, gaps[1], by_radii)
        atoms = lower + upper
        atoms.set_cell([[*match.plane_A[0], 0], [*match.plane_A[1], 0], [0, 0, height]])
        atoms.pbc = True
        atoms.wrap()
        atoms = atoms.repeat((*self.repeat, 1))
        atoms.info = self.story(below, above, match, gaps)
        return atoms

    def story(self, below: Atoms, above: Atoms, match: Match, gaps: np.ndarray) -> dict[str, Any]:
        """Group, largest strain, and how the interface was made."""
        strains = [" ".join(f"{100 * x + 0.0:+.1f} %" for x in pair.round(6)) for pair in match.strains]
        parts = [
            f"{slab.info['made_by']} strain {strain}" for slab, strain in zip((below, above), strains, strict=True)
        ]
        unit = "x radii" if self.gap_A is None else "Å"
        edge = f"vacuum {self.vacuum_A:g} Å" if self.vacuum_A else f"{gaps[1]:.2f} {unit}"
        made_by = (
            f"Coherent({' | '.join(parts)}, gaps {gaps[0]:.2f} {unit} {edge}, repeat {self.repeat[0]} {self.repeat[1]})"
        )
        group = named("|".join(sorted(composition(slab) for slab in (below, above))), made_by)
        return {"group": group, "strain": float(np.abs(match.strains).max()), "made_by": made_by}


@lru_cache(maxsize=64)
def planes(
    lower: str,
    upper: str,
    lower_miller: tuple[int, int, int],
    upper_miller: tuple[int, int, int],
    lower_conventional: bool,
    upper_conventional: bool,
    matching: Matching,
) -> Any:
    """The builder of pymatgen, with the matches and terminations of two planes: the lower crystal is its substrate."""
    from pymatgen.analysis.interfaces.coherent_interfaces import CoherentInterfaceBuilder
    from pymatgen.analysis.interfaces.zsl import ZSLGenerator

    generator = ZSLGenerator(
        max_area_ratio_tol=matching.area_ratio,
        max_area=matching.area_A2,
        max_length_tol=matching.length,
        max_angle_tol=matching.angle,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pymatgen's about its own future
        return CoherentInterfaceBuilder(
            structure(lower, lower_conventional),
            structure(upper, upper_conventional),
            upper_miller,
            lower_miller,
            generator,
            label_index=True,
            filter_out_sym_slabs=False,
        )


def flat(vectors: Any) -> np.ndarray:
    """Two in-plane vectors (2x3, Å) as 2x2, the first along x, the second with positive y."""
    a, b = np.asarray(vectors, dtype=float)
    length = np.linalg.norm(a)
    along = a @ b / length
    return np.array([[length, 0.0], [along, np.sqrt(b @ b - along**2)]])


def on_plane(crystal: Atoms, supercell: np.ndarray, plane_A: np.ndarray) -> Atoms:
    """The slab on an in-plane supercell with the given vectors, its volume kept, the lowest atom at height 0."""
    matrix = np.eye(3, dtype=int)
    matrix[:2, :2] = supercell
    wide = make_supercell(crystal, matrix, wrap=False)
    normal = np.cross(*wide.cell.array[:2])
    area = np.linalg.norm(normal)
    heights = wide.positions @ normal / area
    fractions = wide.positions @ np.linalg.pinv(wide.cell.array[:2])
    heights = (heights - heights.min()) * area / np.linalg.det(plane_A)
    cell = [[*plane_A[0], 0], [*plane_A[1], 0], [0, 0, 0]]
    return Atoms(wide.numbers, np.column_stack([fractions @ plane_A, heights]), cell=cell)
