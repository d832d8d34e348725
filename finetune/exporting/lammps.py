"""Input files of LAMMPS for exported potentials."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.data import atomic_numbers, covalent_radii

from finetune.files import whole, write_text

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
    with whole(files[0]) as partial:
        ase.io.write(partial, atoms, format="lammps-data", specorder=list(symbols), masses=True)
    write_text(files[1], text)
    return files


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
