"""Input files of LAMMPS for exported potentials."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms
from ase.calculators.lammps import Prism
from ase.data import atomic_numbers, covalent_radii

from finetune.files import whole, write_text

EDGE = 1e-6  # Å below the upper bound that an atom in an open direction must have
MARGIN = 0.5  # Å beyond the outermost atoms where a box is made longer

INPUT = """# {about}
# in this directory: lmp -in {name}.in
units           metal
atom_style      atomic
atom_modify     map yes
boundary        {boundary}
read_data       {name}.data   # {structure}
pair_style      {style}
pair_coeff      {coefficients}
timestep        {timestep_ps}
thermo          100
thermo_style    custom step temp pe ke etotal press
minimize        1.0e-8 1.0e-6 1000 10000
velocity        all create {temperature_K} 1 mom yes rot yes
fix             1 all nvt temp {temperature_K} {temperature_K} $(100*dt)
run             1000
"""


def lammps_input(
    path: Path,
    symbols: Sequence[str],
    style: str,
    coefficients: str,
    about: str,
    structure: Atoms | None = None,
    temperature_K: float = 300.0,
    timestep_fs: float = 1.0,
) -> list[Path]:
    """Write `.in` and `.data` beside an exported potential: a short NVT run of a structure.

    Args:
        path: the potential's file.
        symbols: chemical symbols in the order of LAMMPS' atom types.
        style: what follows `pair_style`.
        coefficients: what follows `pair_coeff`.
        about: a line for the top of the file.
        structure: what to run; a made-up crystal of all elements where it is left out.
        temperature_K: of the run.
        timestep_fs: of the run.
    """
    atoms = some_structure(symbols) if structure is None else structure
    what = "a made-up crystal; put your structure in its place" if structure is None else atoms.get_chemical_formula()
    text = INPUT.format(
        about=about,
        name=path.stem,
        boundary=" ".join("p" if periodic else "m" for periodic in atoms.pbc),
        structure=what,
        style=style,
        coefficients=coefficients,
        timestep_ps=timestep_fs / 1000,
        temperature_K=temperature_K,
    )
    files = beside(path)
    atoms = in_box(atoms)
    options: dict[str, Any] = {"specorder": list(symbols), "masses": True, "prismobj": _prism(atoms)}
    with whole(files[0]) as partial:
        ase.io.write(partial, atoms, format="lammps-data", **options)
    write_text(files[1], text)
    return files


def in_box(atoms: Atoms) -> Atoms:
    """A copy in a box that LAMMPS reads: open directions normal to the others, all atoms between their bounds.

    Directions that are not periodic need no certain lattice vector, but LAMMPS takes no tilt along them and no atom
    outside; they are made longer where the atoms need more. Distances between atoms, and between their images, stay.
    """
    box = atoms.copy()
    cell = box.cell.array.copy()
    done = list(cell[box.pbc])
    for k in np.flatnonzero(~box.pbc):
        basis = np.linalg.qr(np.array(done).T)[0].T if done else np.zeros((0, 3))
        cell[k] -= basis.T @ (basis @ cell[k])
        normal = cell[k] / np.linalg.norm(cell[k])
        heights = box.positions @ normal
        length = float(np.linalg.norm(cell[k]))
        if heights.min() < 0 or heights.max() > length - EDGE:
            length = max(length, float(np.ptp(heights)) + 2 * MARGIN)
            cell[k] = length * normal
            box.positions += normal * (length - heights.min() - heights.max()) / 2
        done.append(cell[k])
    box.set_cell(cell)
    return box


def _prism(atoms: Atoms) -> Prism:
    """The cell as LAMMPS has it, its tilt at most half of a box length, as older versions want it."""
    prism = Prism(atoms.cell.array, pbc=atoms.pbc, reduce_cell=True)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        most = 0.5 * prism.lammps_cell[j, j] * (1 - 1e-12)
        prism.lammps_cell[i, j] = np.clip(prism.lammps_cell[i, j], -most, most)
    return prism


def beside(path: Path) -> list[Path]:
    """The structure and the input that go with a potential's file."""
    return [path.with_suffix(".data"), path.with_suffix(".in")]


def some_structure(symbols: Sequence[str]) -> Atoms:
    """A simple cubic crystal of all elements, far enough apart for any pair of them."""
    radii = [covalent_radii[atomic_numbers[symbol]] for symbol in symbols]
    spacing, repeats = 2.2 * max(radii), 4
    places = np.array(list(itertools.product(range(repeats), repeat=3)))
    kinds = [symbols[int(i)] for i in places.sum(axis=1) % len(symbols)]
    return Atoms(kinds, places * spacing, cell=[repeats * spacing] * 3, pbc=True)
