"""Structures in files of any format that ASE reads; invalid content is refused."""

from __future__ import annotations

import io
import lzma
import re
import sqlite3
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator
from pathlib import Path

import ase.db
import ase.io
import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.io.formats import UnknownFileTypeError

from finetune.data.cif import is_cif, read_cif
from finetune.data.compression import COMPRESSED, RATIO, open_bytes, plain_name
from finetune.data.vasp import OUTCAR, XML, read_vasp
from finetune.data.xyz import read_xyz
from finetune.errors import InputError

# what the readers of ASE raise on a file that they do not understand
UNREADABLE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError, AssertionError),
    *(zlib.error, lzma.LZMAError, sqlite3.Error, ElementTree.ParseError, ase.io.ParseError, UnknownFileTypeError),
    *(StopIteration, MemoryError),  # the latter of a size that a damaged file announces
)
VASP = (XML, OUTCAR)
FULL = 0.01  # deviation of the occupancy of a site from 1 that is rounding
SHOWN = 4


def kind_of(path: Path) -> str | None:
    """The format of a labelled file by its name, as ASE calls it; None for other files."""
    name = plain_name(path).lower()
    if "vasprun" in name and ".xml" in name:
        return XML
    if "outcar" in name:
        return OUTCAR
    return {".extxyz": "extxyz", ".xyz": "extxyz", ".db": "db", ".traj": "traj"}.get(Path(name).suffix)


def read_images(path: Path, labelled: bool = False, index: int | None = None) -> list[tuple[int, Atoms]]:
    """Read structures of a file, each with its number from 0, with the results that the file has.

    Args:
        path: any format of ASE, compressed (.gz, .bz2, .xz) or not.
        labelled: whether labels are wanted; steps of VASP without usable ones are then left out.
        index: of a single structure, from the end where negative; None for all.

    Raises:
        InputError: the file is empty or cannot be read, has sites of mixed or partial occupancy, or elements that are
            not known.
    """
    kind = kind_of(path)
    images: list[tuple[int, Atoms]] = []
    _check_announced(path)
    try:
        if path.stat().st_size:
            for number, atoms in _images(path, kind, labelled, index):
                images.append((number, atoms))
    except InputError:
        raise
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        at = f" at frame {len(images)}" if images else ""
        named = kind or "a structure"
        raise InputError(f"cannot read {path} as {named}{at}: {reason}; is it damaged or another format?") from error
    if not images and index in (0, -1):
        raise InputError(f"{path} cannot be read as a structure: there is none in it; is it damaged or another format?")
    if not images and index is not None:
        raise InputError(f"{path}: there is no frame {index} in it; they are counted from 0")
    if not images:
        raise InputError(f"{path} is empty: no structure in it; give a file with frames or leave it out")
    for number, atoms in images:
        check_ordered(atoms, f"{path}, frame {number}" if len(images) > 1 else str(path))
    return images


def _images(path: Path, kind: str | None, labelled: bool, index: int | None) -> Iterator[tuple[int, Atoms]]:
    packed = path.suffix.lower() in COMPRESSED
    if kind == "extxyz":
        yield from read_xyz(path, index)
    elif kind in VASP or kind == "db":
        if kind == "db" and packed:
            raise InputError(f"{path}: got a compressed database, expected a plain one. Decompress it first")
        found = list(read_vasp(path, kind, labelled) if kind in VASP else enumerate(_rows(path)))
        yield from found if index is None else [found[index]]
    elif is_cif(path):
        crystals = list(read_cif(path))
        yield from enumerate(crystals if index is None else [crystals[index]])
    else:
        source: str | io.BytesIO = str(path)
        if kind == "traj" and packed:
            with open_bytes(path) as stream:
                source = io.BytesIO(stream.read())
        wanted = ":" if index is None else index
        yield from enumerate(ase.io.iread(source, index=wanted, format=kind, do_not_split_by_at_sign=True))


def _check_announced(path: Path) -> None:
    """Refuse VASP files that announce more atoms than they have bytes, before memory is asked for them.

    Raises:
        InputError: with the number.
    """
    name = plain_name(path).lower()
    if not ("poscar" in name or "contcar" in name or "outcar" in name or name.endswith((".vasp", ".poscar"))):
        return
    with open_bytes(path) as stream:
        head = stream.read(2**20).decode(errors="replace")
    counts = re.findall(r"NIONS\s*=\s*(\d+)", head) if "outcar" in name else " ".join(head.splitlines()[5:7]).split()
    numbers = [int(word) for word in counts if word.isdigit()]
    size = path.stat().st_size * (RATIO if path.suffix.lower() in COMPRESSED else 1)
    if sum(numbers) > size:
        raise InputError(f"{path}: got {sum(numbers)} atoms in a file of {size} bytes. Take a sound copy.")


def _rows(path: Path) -> Iterator[Atoms]:
    """Structures of an ASE database; key-value pairs and data become `info`."""
    for row in ase.db.connect(path, type="db", use_lock_file=False).select():
        atoms = row.toatoms()
        atoms.info |= {**row.key_value_pairs, **row.data}
        yield atoms


def check_ordered(atoms: Atoms, where: str) -> None:
    """Check that each site is occupied by one atom of one element.

    ASE reads a disordered CIF as if its sites were full, and keeps the occupancies in `info`.

    Args:
        atoms: as read.
        where: file and frame, for the message.

    Raises:
        InputError: the sites that are not.
    """
    sites = disordered_sites(atoms)
    if sites:
        shown = "; ".join(sites[:SHOWN]) + (f"; and {len(sites) - SHOWN} more" if len(sites) > SHOWN else "")
        overfull = [site for site in sites if _filling(site) > 1 + FULL]
        remedy = (
            "Give occupancies (_atom_site_occupancy) that add up to 1 on each site, or leave out what is not there"
            if overfull
            else "Order the crystal: `finetune sample` with finetune.sampling.Files and `order: true`, or pymatgen"
        )
        kind = "more than one atom" if len(overfull) == len(sites) else "partial or mixed occupancy"
        raise InputError(f"{where}: got {len(sites)} sites of {kind} ({shown}), expected one atom on each. {remedy}")


def _filling(site: str) -> float:
    """Sum of the occupancies of a site in words."""
    return sum(float(word) for word in site.split(" at ")[0].split()[1::2])


def disordered_sites(atoms: Atoms) -> list[str]:
    """Sites of partial or mixed occupancy, such as `S 0.6 P 0.4 at 0.500 0.000 0.500`, by ASE's `occupancy`."""
    occupancy = atoms.info.get("occupancy")
    if not isinstance(occupancy, dict):
        return []
    shares = [share for site in occupancy.values() if isinstance(site, dict) for share in site.values()]
    strange = [share for share in shares if not isinstance(share, int | float)]
    if strange:
        raise InputError(f"got the occupancy {strange[0]!r:.40} of a site, expected a number. Check the file")
    wrong = {
        str(kind): " ".join(f"{symbol} {share:g}" for symbol, share in site.items())
        for kind, site in occupancy.items()
        if isinstance(site, dict) and (len(site) > 1 or abs(sum(site.values()) - 1) > FULL)
    }
    kinds = atoms.arrays.get("spacegroup_kinds")
    if kinds is None or not wrong:
        return list(wrong.values())
    places = atoms.get_scaled_positions() if atoms.cell.rank == 3 else atoms.positions
    found = []
    for kind, words in wrong.items():
        members = np.flatnonzero(kinds.astype(str) == kind)
        found += [f"{words} at {' '.join(f'{x:.3f}' for x in places[k])}" for k in members]
    return found or list(wrong.values())


def read_structure(name: str, index: int = -1) -> Atoms:
    """Read one structure of a file, without results; `FILE@3` is its fourth, `index` that of a name without a number.

    Raises:
        InputError: the file is missing or cannot be read, the number is too large, or several structures are named.
    """
    path, number = Path(name), None
    if not path.exists() and "@" in name:
        stem, _, number = name.rpartition("@")
        path = Path(stem)
    if not path.exists():
        raise InputError(f"there is no file {name}; check the path")
    if path.is_dir():
        raise InputError(f"{name} is a directory; name a file")
    if number is not None:
        try:
            index = int(number)
        except ValueError:
            raise InputError(f"{name} names several frames; say one, as in {path}@0") from None
    [(_, atoms)] = read_images(path, index=index)
    check_elements(atoms, name)
    atoms.calc = None
    return atoms


def check_elements(atoms: Atoms, where: str) -> None:
    """Check that all atoms are chemical elements.

    Raises:
        InputError: an atom is not.
    """
    strange = unknown_elements(atoms)
    if strange:
        raise InputError(f"{where}: element {strange[0]} is not known. A vacancy or dummy is no atom: leave it out")


def unknown_elements(atoms: Atoms) -> list[str]:
    """What stands for elements that do not exist: X for number 0, other numbers as they are."""
    numbers = sorted({int(z) for z in atoms.numbers})
    return ["X" if z == 0 else f"number {z}" for z in numbers if not 0 < z < len(chemical_symbols)]
