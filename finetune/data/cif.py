"""Crystals in CIF files."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from ase import Atoms
from ase.io.cif import CIFBlock, parse_cif

from finetune.data.compression import open_text, plain_name

CLOSE = 0.3  # Å, between atoms of two elements on one site


def is_cif(path: Path) -> bool:
    """Whether a file is a CIF by its name, compressed or not."""
    return plain_name(path).lower().endswith(".cif")


def read_cif(path: Path) -> Iterator[Atoms]:
    """Yield the crystals of a CIF as ASE reads them, with `occupancy` in `info` also where no column gives it.

    ASE keeps the first of two elements on one site where the file has no occupancies. Each is given an occupancy of 1
    here, so that `finetune.data.structures.disordered_sites` names the site.
    """
    with open_text(path) as stream:
        text = stream.read()
    for block in parse_cif(io.StringIO(text)):
        if not block.has_structure():
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="scaled_positions .* are equivalent")
            atoms = block.get_atoms()
        if "occupancy" not in atoms.info and "spacegroup_kinds" in atoms.arrays and (shared := _shared(block)):
            atoms.info["occupancy"] = {str(kind): dict.fromkeys(symbols, 1.0) for kind, symbols in shared.items()}
        yield atoms


def _shared(block: CIFBlock) -> dict[int, list[str]]:
    """Elements on sites that more than one has, by the number of the first in the list of the file."""
    symbols, cell = block.get_symbols(), block.get_cell()
    places = block.get_unsymmetrized_structure().get_scaled_positions(wrap=False)
    group = block.get_spacegroup(True)
    orbits = [group.equivalent_sites(place)[0] for place in places]
    images, owners = np.concatenate(orbits), np.repeat(np.arange(len(orbits)), [len(orbit) for orbit in orbits])
    shared: dict[int, list[str]] = {}
    for k, place in enumerate(places):
        apart = images[owners < k] - place
        close = np.linalg.norm((apart - np.round(apart)) @ cell.array, axis=1) < CLOSE
        if close.any():
            first = int(owners[owners < k][close][0])
            names = shared.setdefault(first, [symbols[first]])
            names += [symbols[k]] if symbols[k] not in names else []
    return {first: names for first, names in shared.items() if len(names) > 1}
