"""Periodic cells that DFT can take, cut out of large ones around uncertain atoms.

The box lies along the lattice vectors of the large cell. Where the large cell is short anyway its own period is kept;
along the others a window is cut out and repeated with a little room between. Of several lengths and positions of the
window, that one is taken whose new boundary disturbs least: the fewest atoms removed and the least room left empty.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator
from ase.data import covalent_radii
from ase.neighborlist import neighbor_list
from vesin import NeighborList

from finetune.errors import InputError
from finetune.learning.surroundings import relaxed, surroundings
from finetune.sampling.molecules import molecules

LENGTHS, PLACES = 6, 3  # of windows that are tried along each lattice vector
SPHERE_A = 6.0  # radius within which atoms are counted for the volume of one
FACE = 0.05  # what a new boundary counts: as much as a twentieth of the atoms removed
STEP, STEPS = 0.01, 12  # by which a cell is shortened at a time, and how often at most
SAME_A = 1e-6  # two environments are the same up to this, Å


@dataclass(frozen=True)
class Cutter:
    """How sub-cells are cut.

    Attributes:
        atoms: largest number of atoms of a sub-cell.
        radius_A: surroundings of the uncertain atom that stay as they are, Å.
        padding_A: room that is added between the two faces of a new boundary, Å.
        closest: smallest distance across a new boundary over the sum of the covalent radii; atoms that are closer are
            removed, outside of the radius.
        bonds: pairs of elements whose bonds are not cut, with the length of the bond at most, Å: `{P-S: 2.6}` keeps
            thiophosphate groups whole.
        centres: largest number of sub-cells out of one structure.
        relax_steps: steps of relaxation, by the potential, of the atoms outside of the radius; 0 for none.
        volume: largest relative difference of the volume per atom from that of the same atoms in the large structure.
    """

    atoms: int = 80
    radius_A: float = 4.5
    padding_A: float = 0.3
    closest: float = 0.75
    bonds: Mapping[str, float] = field(default_factory=dict)
    centres: int = 3
    relax_steps: int = 0
    volume: float = 0.15

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if not (self.atoms > 0 and self.radius_A > 0 and self.padding_A >= 0 and 0 < self.closest < 1.5):
            raise InputError(f"{self} cannot cut; atoms, radius_A and closest are above 0, closest below 1.5")
        if not self.volume > 0:
            raise InputError(f"Cutter: `volume` is {self.volume:g}, expected above 0. Give 0.15, or .inf for no limit.")
        if any(pair.count("-") != 1 for pair in self.bonds):
            raise InputError(f"bonds {dict(self.bonds)} are named by two elements, as in {{P-S: 2.6}}")


def centres(atoms: Atoms, scores: np.ndarray, settings: Cutter, least: float = 0.0) -> list[int]:
    """The most uncertain atoms, none below `least` or within twice the radius of another, the most uncertain first."""
    found: list[int] = []
    for k in np.argsort(-scores, kind="stable"):
        if len(found) == settings.centres or scores[k] < least:
            break
        near = atoms.get_distances(int(k), found, mic=True) if found else np.array([])
        if (near > 2 * settings.radius_A).all():
            found.append(int(k))
    return found


class _Window(NamedTuple):
    """A part of the large cell."""

    lower: np.ndarray  # fractions of the lattice vectors from the centre
    upper: np.ndarray
    cell: np.ndarray  # of the sub-cell, Å
    cut: np.ndarray  # along which lattice vectors there is a new boundary


class _Around(NamedTuple):
    """The surroundings of the centre: units (atoms, or whole molecules) by one place each, and their atoms."""

    places: np.ndarray  # of each unit relative to the centre, in fractions of the lattice vectors, -1/2 to 1/2
    owner: np.ndarray  # the unit of each atom
    positions: np.ndarray  # of each atom relative to the centre, Å
    near: np.ndarray  # whether each unit has an atom within the radius
    volumes: np.ndarray  # of each atom, Å³, from the number of atoms around it


def cut(atoms: Atoms, centre: int, settings: Cutter) -> Atoms:
    """A periodic sub-cell around an atom, with its surroundings within the radius as they were.

    `info` has the `centre`, the array `inside` tells the atoms within the radius: what is uncertain about the others
    may be owed to the new boundary.

    Raises:
        InputError: the surroundings do not fit into so few atoms, or the cell is not periodic.
    """
    if atoms.cell.rank < 3 or not atoms.pbc.all():
        raise InputError("sub-cells are cut out of structures that are periodic in three directions; set cell and pbc")
    if len(atoms) <= settings.atoms:
        raise InputError(
            f"the structure has {len(atoms)} atoms, no more than {settings.atoms}; there is nothing to cut"
        )
    around = _around(atoms, centre, settings)
    best: tuple[float, Atoms] | None = None
    nearest = np.inf
    for empty, inside, window in _candidates(atoms, around, settings):
        if best is not None and empty > best[0]:
            break  # the removal of atoms disturbs as much as it can mend
        found = _cleaned(atoms, around, inside, window, settings)
        if found is not None:
            _close(found, around, window, settings)
            swollen = found.get_volume() / around.volumes[found.arrays["parent"]].sum() - 1
            nearest = min(nearest, swollen, key=abs)
            if abs(swollen) > settings.volume:
                continue
            disturbed = _disturbed(found, around, window)
            best = (disturbed, found) if best is None or disturbed < best[0] else best
    if best is None and np.isfinite(nearest):
        raise InputError(
            f"sub-cells around atom {centre}: got a volume per atom {nearest:+.3g} off (relative) at best, "
            f"expected within {settings.volume:.3g}. Raise atoms, or lower radius_A or padding_A."
        )
    if best is None:
        raise InputError(
            f"no sub-cell of {settings.atoms} atoms holds the {settings.radius_A:g} Å around atom {centre} with sane "
            "distances; lower radius_A or raise atoms"
        )
    return _told(best[1], atoms, centre, settings)


def _candidates(atoms: Atoms, around: _Around, settings: Cutter) -> list[tuple[float, np.ndarray, _Window]]:
    """Windows with few enough atoms: how much they disturb at least, the units inside, and the window; best first."""
    found = []
    sizes = np.bincount(around.owner, minlength=len(around.near))
    needs = np.bincount(around.owner, weights=around.volumes, minlength=len(around.near))
    for window in _windows(atoms, settings):
        inside = ((around.places >= window.lower) & (around.places < window.upper)).all(axis=1) | around.near
        count, need = int(sizes[inside].sum()), float(needs[inside].sum())
        least = abs(np.linalg.det(window.cell)) * (1 - STEP) ** (STEPS * int(window.cut.sum()))
        if count <= settings.atoms and least <= (1 + settings.volume) * need:  # atoms removed leave it emptier still
            empty = abs(abs(np.linalg.det(window.cell)) - need) / need
            found.append((empty + FACE * window.cut.sum(), inside, window))
    return sorted(found, key=lambda one: one[0])


def _disturbed(found: Atoms, around: _Around, window: _Window) -> float:
    """Atoms removed, and room left empty or lacking in atoms, over the atoms of a sub-cell; and its new boundaries."""
    volumes = around.volumes[found.arrays["parent"]]
    empty = (found.get_volume() - volumes.sum()) / volumes.mean()
    return float((found.info["removed"] + abs(empty)) / len(found) + FACE * window.cut.sum())


def _around(atoms: Atoms, centre: int, settings: Cutter) -> _Around:
    """Units and atoms relative to the centre, each in its nearest image."""
    unit, offsets = molecules(atoms, settings.bonds)
    inverse = np.linalg.inv(atoms.cell.array)
    first = np.unique(unit, return_index=True)[1]
    counts = np.bincount(unit)
    middle = np.stack([np.bincount(unit, weights=offsets[:, k]) for k in range(3)], axis=1) / counts[:, None]
    places = (atoms.positions[first] + middle - atoms.positions[centre]) @ inverse
    shift = np.round(places + 1e-9)
    positions = atoms.positions[first][unit] + offsets - atoms.positions[centre] - (shift @ atoms.cell.array)[unit]
    within = np.linalg.norm(positions, axis=1) <= settings.radius_A
    near = np.bincount(unit, weights=within) > 0
    return _Around(places - shift, unit, positions, near, _volumes(atoms))


def _volumes(atoms: Atoms) -> np.ndarray:
    """Volume of each atom, Å³: that of a sphere over the number of atoms in it."""
    pairs = NeighborList(cutoff=SPHERE_A, full_list=True, n_threads=1)
    (i,) = pairs.compute(atoms.positions, atoms.cell.array, periodic=atoms.pbc, quantities="i")
    counts = np.bincount(np.asarray(i).astype(np.int64), minlength=len(atoms)) + 1
    return np.asarray(4 / 3 * np.pi * SPHERE_A**3 / counts)


def _windows(atoms: Atoms, settings: Cutter) -> list[_Window]:
    """Windows to try."""
    cell = atoms.cell.array
    heights = 1 / np.linalg.norm(np.linalg.inv(cell), axis=0)
    apart = settings.closest * 2 * float(covalent_radii[atoms.numbers].max())
    least = 2 * settings.radius_A + apart  # so that surroundings do not meet their own images
    per_atom = atoms.get_volume() / len(atoms)
    area = [atoms.get_volume() / heights[k] / np.prod([heights[m] for m in range(3) if m != k]) for k in range(3)]
    along: list[list[tuple[float, float, float]]] = []
    for k in range(3):
        others = np.prod([min(least, heights[m]) for m in range(3) if m != k])
        most = 1.3 * settings.atoms * per_atom / (others * max(area[k], 1.0))
        if heights[k] <= least + settings.padding_A:
            along.append([(-0.5, 0.5, 1.0)])
            continue
        lengths = np.linspace(least, min(max(most, least), heights[k] - settings.padding_A), LENGTHS)
        choices = [(-0.5, 0.5, 1.0)] if heights[k] <= most else []
        for length in np.unique(lengths.round(6)):
            room = (length - least) / 2
            for middle in np.unique(np.linspace(-room, room, PLACES).round(6)):
                ends = ((middle - length / 2) / heights[k], (middle + length / 2) / heights[k])
                choices.append((*ends, (length + settings.padding_A) / heights[k]))
        along.append(choices)
    found = []
    for choice in itertools.product(*along):
        lower, upper, factor = np.array(choice).T
        found.append(_Window(lower, upper, cell * factor[:, None], factor != 1))
    return found


def _cleaned(atoms: Atoms, around: _Around, inside: np.ndarray, window: _Window, settings: Cutter) -> Atoms | None:
    """The sub-cell of some units, those that come too close across the boundary removed; None where that fails."""
    members = np.flatnonzero(inside[around.owner])
    found = Atoms(atoms.numbers[members], around.positions[members], cell=window.cell, pbc=True)
    owner, removed = around.owner[members], 0
    while (pair := _clash(found, owner, window, settings.closest)) is not None:
        gone = pair[0] if not around.near[pair[0]] else pair[1]
        if around.near[gone]:
            return None
        keep = owner != gone
        removed += int((~keep).sum())
        found, members, owner = found[keep], members[keep], owner[keep]
    found.info = {"removed": removed}
    found.arrays["parent"] = members
    return found


def _close(found: Atoms, around: _Around, window: _Window, settings: Cutter) -> None:
    """Shorten the cell across new boundaries, in place, down to the volume of its atoms while no pair is too close."""
    own = float(around.volumes[found.arrays["parent"]].sum())
    owner = around.owner[found.arrays["parent"]]
    for _ in range(STEPS):
        excess = found.get_volume() / own
        if excess <= 1 or not window.cut.any():
            return
        before = found.cell.array.copy()
        shorter = max(excess ** (-1 / window.cut.sum()), 1 - STEP)
        found.set_cell(before * np.where(window.cut, shorter, 1.0)[:, None])
        if _clash(found, owner, window, settings.closest) is not None:
            found.set_cell(before)
            return


def _clash(found: Atoms, owner: np.ndarray, window: _Window, closest: float) -> tuple[int, int] | None:
    """The two units whose atoms are the closest across a boundary, where that is too close; the one to remove first."""
    radii = covalent_radii[found.numbers]
    i, j, distances, shifts = neighbor_list("ijdS", found, 2 * closest * float(radii.max()))
    direct = np.linalg.norm(found.positions[j] - found.positions[i], axis=1)
    across = shifts[:, window.cut].any(axis=1) & (np.abs(direct - distances) > SAME_A)
    ratio = np.where(across, distances / (radii[i] + radii[j]), np.inf)
    if not len(ratio) or ratio.min() >= closest:
        return None
    worst = int(ratio.argmin())
    pair = (int(owner[i[worst]]), int(owner[j[worst]]))
    crowded = [int(((ratio < closest) & (owner[i] == unit)).sum()) for unit in pair]
    return pair if crowded[0] >= crowded[1] else (pair[1], pair[0])


def _told(found: Atoms, atoms: Atoms, centre: int, settings: Cutter) -> Atoms:
    """The sub-cell with its story, after its surroundings have been compared.

    Raises:
        InputError: the surroundings of the centre are not what they were.
    """
    own = int(np.flatnonzero(found.arrays["parent"] == centre)[0])
    before, after = (surroundings(a, k, settings.radius_A) for a, k in ((atoms, centre), (found, own)))
    if len(before) != len(after) or np.abs(before - after).max(initial=0.0) > SAME_A:
        raise InputError(f"the surroundings of atom {centre} would change in a sub-cell; lower radius_A")
    del found.arrays["parent"]
    found.arrays["inside"] = found.get_distances(own, range(len(found)), mic=True) <= settings.radius_A
    story = f"Subcell(atom {centre} of {len(atoms)}, {settings.radius_A:g} Å)"
    found.info = {
        **{name: value for name, value in atoms.info.items() if name in ("family", "group", "start", "run", "time_ps")},
        "made_by": " > ".join(filter(None, [atoms.info.get("made_by"), story])),
        "centre": own,
        "composition": found.get_chemical_formula(),
        "cut_out_of": atoms.get_chemical_formula(),
        "removed": found.info["removed"],
    }
    found.wrap()
    return found


def subcells(
    atoms: Atoms, scores: np.ndarray, settings: Cutter, calculator: Calculator | None = None, least: float = 0.0
) -> tuple[list[Atoms], list[str]]:
    """Sub-cells around the most uncertain atoms of a structure, none below `least`, and why others could not be cut."""
    found: list[Atoms] = []
    refused: list[str] = []
    for centre in centres(atoms, scores, settings, least):
        try:
            subcell = cut(atoms, centre, settings)
        except InputError as error:
            refused.append(str(error))
            continue
        if calculator is not None and settings.relax_steps:
            subcell = relaxed(subcell, calculator, settings.radius_A, settings.relax_steps)
        found.append(subcell)
    return found, refused
