"""Slabs: crystals cut along lattice planes, with their molecules left whole."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list

from finetune.errors import InputError
from finetune.sampling.core import atoms_of, number_of, spans

BOND = 1.25  # a bond is shorter than this many sums of covalent radii
INTERLOCKED = 2.0  # Å that the outermost atoms of two faces may reach behind each other


@dataclass(frozen=True)
class Face:
    """A crystal and the planes along which it is cut.

    Attributes:
        crystal: a reduced formula, of whose polymorphs one is drawn per frame, or a CIF file.
        miller: Miller indices, of which one is drawn per frame.
        layers: smallest and largest thickness in lattice planes.
        termination: number of the termination, from 0; None draws one per frame.
        conventional: the indices are those of the conventional cell; false for those of the cell in the file.
        whole: pairs of elements whose bonds are not cut: molecules stay on the side where their centre is.
    """

    crystal: str
    miller: tuple[tuple[int, int, int], ...] = ((1, 0, 0),)
    layers: tuple[int, int] = (1, 1)
    termination: int | None = None
    conventional: bool = True
    whole: tuple[tuple[str, str], ...] = (("P", "S"), ("P", "P"), ("S", "S"))

    def __post_init__(self) -> None:
        if not self.miller or any(not any(indices) for indices in self.miller):
            raise InputError(f"{self.crystal}: Miller indices {list(self.miller)}; give some that are not all 0")
        spans(self, layers=1)

    def cut(self, shifts: list[float], rng: np.random.Generator) -> float:
        """The termination asked for, or a random one."""
        if self.termination is None:
            return shifts[rng.integers(len(shifts))]
        if not 0 <= self.termination < len(shifts):
            raise InputError(
                f"{self.crystal} has no termination {self.termination}; take one of 0 to {len(shifts) - 1}"
            )
        return shifts[self.termination]


@lru_cache(maxsize=32)
def crystals_of(folder: Path, crystal: str) -> list[str]:
    """The CIF files that a formula or a file name means, sorted.

    Raises:
        InputError: no such file, or no crystal of that formula below the folder.
    """
    if crystal.endswith(".cif"):
        for path in (folder / crystal, Path(crystal)):
            if path.is_file():
                return [str(path)]
        raise InputError(f"there is no file {folder / crystal}; check `crystal` and `folder`")
    wanted = atoms_of(crystal).symbols.formula.reduce()[0].format("hill")
    known = ordered(folder)
    if wanted not in known:
        raise InputError(f"no ordered crystal of {crystal} below {folder}; take one of: {', '.join(sorted(known))}")
    return known[wanted]


@lru_cache(maxsize=8)
def ordered(folder: Path) -> dict[str, list[str]]:
    """CIF files of ordered crystals below a folder by reduced formula."""
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*.cif")):
        crystal = structure(str(path), False)
        if crystal.is_ordered:
            formula = Atoms([site.specie.Z for site in crystal]).symbols.formula.reduce()[0].format("hill")
            found.setdefault(formula, []).append(str(path))
    return found


@lru_cache(maxsize=256)
def structure(path: str, conventional: bool) -> Any:
    """The structure of a CIF file in pymatgen's terms, in the cell of the file or the conventional one."""
    from pymatgen.core import Structure
    from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about rounded coordinates
        crystal = Structure.from_file(path)
        crystal.remove_oxidation_states()
        return SpacegroupAnalyzer(crystal, 0.05).get_conventional_standard_structure() if conventional else crystal


@lru_cache(maxsize=256)
def slab(path: str, miller: tuple[int, int, int], shift: float, face: Face, layers: int) -> Atoms:
    """A crystal cut along a plane, periodic in all directions still: the third vector leads to its next period.

    The in-plane vectors are those that pymatgen's interface builder matches.
    """
    from pymatgen.core.surface import SlabGenerator

    crystal = structure(path, face.conventional)
    generator = SlabGenerator(
        crystal,
        miller,
        min_slab_size=layers,
        min_vacuum_size=3,
        in_unit_planes=True,
        center_slab=True,
        primitive=True,
        reorient_lattice=False,
    )
    cut = generator.get_slab(shift=shift)
    plane, period = cut.lattice.matrix[:2], generator.oriented_unit_cell.lattice.matrix[2]
    area = np.linalg.norm(np.cross(*plane))
    thickness = len(cut) * crystal.volume / len(crystal) / area
    periods = thickness / abs(period @ np.cross(*plane) / area)
    atoms = Atoms([site.specie.Z for site in cut], cut.cart_coords, cell=[*plane, round(periods) * period], pbc=True)
    atoms = mended(atoms, face.whole)
    atoms.info["made_by"] = f"{Path(path).stem} ({' '.join(map(str, miller))}) cut {shift:.3f} layers {layers}"
    return atoms


def mended(atoms: Atoms, whole: tuple[tuple[str, str], ...]) -> Atoms:
    """The slab with the pieces of molecules that a face cuts put together, each on the side where its centre is."""
    partners = bonds(atoms, whole)
    heights = atoms.get_scaled_positions(wrap=False)[:, 2]
    heights -= heights.min()
    images = np.zeros((len(atoms), 3))
    seen: set[int] = set()
    for first in sorted(partners):
        if first in seen:
            continue
        molecule = {first: np.zeros(3)}
        queue = [first]
        while queue:
            atom = queue.pop()
            for other, shift in partners[atom]:
                if other not in molecule:
                    molecule[other] = molecule[atom] + shift
                    queue.append(other)
        members = list(molecule)
        images[members] = list(molecule.values())
        images[members, 2] -= np.floor(np.mean(heights[members] + images[members, 2]) + 1e-9)
        seen |= molecule.keys()
    copy = atoms.copy()
    copy.positions += images @ atoms.cell.array
    return copy


def bonds(atoms: Atoms, kinds: tuple[tuple[str, str], ...]) -> dict[int, list[tuple[int, np.ndarray]]]:
    """Bonded partners of the atoms, with the periodic image that each is in, for some pairs of elements."""
    pairs = {frozenset((number_of(a), number_of(b))) for a, b in kinds}
    partners: dict[int, list[tuple[int, np.ndarray]]] = {}
    for i, j, shift in zip(*neighbor_list("ijS", atoms, BOND * covalent_radii[atoms.numbers]), strict=True):
        if frozenset((atoms.numbers[i], atoms.numbers[j])) in pairs:
            partners.setdefault(int(i), []).append((int(j), shift))
    return partners


def touching(below: Atoms, above: Atoms, gap: float, by_radii: bool) -> float:
    """How far to lift the upper slab, Å, so that the closest atoms of both have this gap.

    Rough faces may interlock by `INTERLOCKED` Å, no further.

    Args:
        below: a slab with the normal along z and its in-plane lattice as first two cell vectors.
        above: another one on the same lattice.
        gap: distance of the closest two atoms, Å, or over the sum of their covalent radii.
        by_radii: whether the gap is over the sum of covalent radii.
    """
    flush = below.positions[:, 2].max() - above.positions[:, 2].min()
    radii = [covalent_radii[slab.numbers] if by_radii else np.full(len(slab), 0.5) for slab in (below, above)]
    depth = gap * (radii[0].max() + radii[1].max()) + INTERLOCKED
    low = below.positions[:, 2] > below.positions[:, 2].max() - depth
    high = above.positions[:, 2] < above.positions[:, 2].min() + depth
    lower, upper = below.positions[low], above.positions[high]
    reach = gap * (radii[1][high][:, None] + radii[0][low][None])
    plane = below.cell.array[:2, :2]
    apart = (upper[:, None, :2] - lower[None, :, :2]) @ np.linalg.inv(plane)
    apart -= np.rint(apart)
    images = np.array([[x, y] for x in (-1, 0, 1) for y in (-1, 0, 1)])
    squares = (((apart[..., None, :] + images) @ plane) ** 2).sum(axis=-1).min(axis=-1)
    lifts = lower[None, :, 2] + np.sqrt(np.maximum(reach**2 - squares, 0)) - upper[:, None, 2]
    return float(lifts[squares < reach**2].max(initial=flush - INTERLOCKED))
