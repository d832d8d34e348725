"""Files of labelled structures: extended XYZ, ASE databases and trajectories, VASP output."""

from __future__ import annotations

import difflib
import glob
import sqlite3
import xml.etree.ElementTree as ElementTree
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import ase.db
import ase.io
from ase import Atoms
from ase.io.formats import UnknownFileTypeError

from finetune.data.frames import Frame
from finetune.data.labels import LabelKeys, find_labels
from finetune.errors import InputError

# what the readers of ASE raise on a file that they do not understand
UNREADABLE = (
    *(OSError, ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, EOFError, AssertionError),
    *(zlib.error, sqlite3.Error, ElementTree.ParseError, ase.io.ParseError, UnknownFileTypeError),
)
KINDS = "extended XYZ (.extxyz, .xyz), ASE database (.db), ASE trajectory (.traj), vasprun.xml, OUTCAR"
VASP = ("vasp-xml", "vasp-out")


def read(paths: str | Path | Sequence[str | Path], keys: LabelKeys | None = None, labelled: bool = True) -> list[Frame]:
    """Labelled frames of files, in the order of the files.

    Labels are read from the keys first, then from the calculator results that ASE stores; of its two energies the free
    energy is taken where there is one, because forces and stress are its derivatives (VASP's `energy` is extrapolated
    to zero smearing and is not consistent with them). Say `LabelKeys(energy="energy")` to have the other one.

    `family` and `group` are read from `info`. Without them the family is the name of the file ("all" for VASP output),
    and frames of one file (named with its folder) that have the same composition are one group: they may be one
    trajectory, and nothing in the file says otherwise.

    Args:
        paths: files, folders (all `*.extxyz` and `*.extxyz.gz` in them) and glob patterns.
        keys: names of the labels in `info` and `arrays`; default `REF_energy`, `REF_forces`, `REF_stress`,
            `REF_magmoms`.
        labelled: labels are needed; False for structures to predict.

    Raises:
        InputError: a file that is not there, empty or unreadable; no labels; a label key that no frame has; labels that
            partly stand under the keys and partly on calculators.
    """
    images: list[tuple[Path, int, Atoms, bool]] = []
    for path in expand([paths] if isinstance(paths, str | Path) else paths):
        kind = _kind(path)
        atoms = _images(path, kind)
        images += [(path, index, image, kind in VASP) for index, image in enumerate(atoms)]
    named = [(f"frame {index} of {path}", atoms, vasp) for path, index, atoms, vasp in images]
    labels = find_labels(named, keys or LabelKeys(), labelled)
    return [_frame(*image, given) for image, given in zip(images, labels, strict=True)]


def expand(paths: Sequence[str | Path]) -> list[Path]:
    """The files behind files, folders and glob patterns, each once, in order.

    Raises:
        InputError: nothing is there, with the nearest name that is.
    """
    files: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            found = sorted([*path.glob("*.extxyz"), *path.glob("*.extxyz.gz")])
        else:
            found = [path] if path.exists() else sorted(map(Path, glob.glob(str(path), recursive=True)))
        if not found:
            raise InputError(_missing(path))
        files |= {file.resolve(): file for file in found if file.resolve() not in files}
    if not files:
        raise InputError("no data files were named; give at least one")
    return list(files.values())


def _missing(path: Path) -> str:
    """What to say of a path that leads to no file."""
    if path.is_dir():
        return f"{path}: no *.extxyz in this folder; name the files"
    if not path.parent.is_dir():
        return f"{path}: no such file or folder{_elsewhere(path)}"
    near = difflib.get_close_matches(path.name, [entry.name for entry in path.parent.iterdir()], n=1)
    return f"{path}: no such file" + (f"; did you mean {near[0]}?" if near else "")


def _elsewhere(path: Path) -> str:
    """Remedy for a relative path that another working directory would have."""
    if path.is_absolute():
        return ""
    missing = next(folder for folder in [*reversed(path.parents), path] if not folder.exists())
    return (
        f", as {missing} is not in {Path.cwd()}. Run the command in the folder that holds {missing}, or give the path"
    )


def _kind(path: Path) -> str:
    """The format of a file, from its name."""
    name = path.name.lower().removesuffix(".gz")
    if "vasprun" in name and ".xml" in name:
        return "vasp-xml"
    if "outcar" in name:
        return "vasp-out"
    kinds = {".extxyz": "extxyz", ".xyz": "extxyz", ".db": "db", ".traj": "traj"}
    if Path(name).suffix not in kinds:
        raise InputError(f"{path}: cannot tell its format from its name; known are {KINDS}")
    return kinds[Path(name).suffix]


def _images(path: Path, kind: str) -> list[Atoms]:
    """All structures of a file.

    Raises:
        InputError: the file is empty or cannot be read.
    """
    images: list[Atoms] = []
    try:
        empty = path.stat().st_size == 0
        if not empty:
            for atoms in _rows(path) if kind == "db" else _iread(path, kind):
                images.append(atoms)
    except UNREADABLE as error:
        reason = str(error) or type(error).__name__
        at = f" at frame {len(images)}" if images else ""
        raise InputError(f"cannot read {path} as {kind}{at}: {reason}; is it damaged or another format?") from error
    if not images:
        raise InputError(f"{path} is empty: no structure in it; give a file with frames or leave it out")
    return images


def _iread(path: Path, kind: str) -> Iterator[Atoms]:
    yield from ase.io.iread(str(path), index=":", format=kind, do_not_split_by_at_sign=True)


def _rows(path: Path) -> Iterator[Atoms]:
    """Structures of an ASE database; key-value pairs and data become `info`."""
    for row in ase.db.connect(path, type="db", use_lock_file=False).select():
        atoms = row.toatoms()
        atoms.info |= {**row.key_value_pairs, **row.data}
        yield atoms


def _frame(path: Path, index: int, atoms: Atoms, vasp: bool, given: dict[str, Any]) -> Frame:
    atoms.calc = None
    family = atoms.info.get("family", "all" if vasp else path.name.split(".")[0])
    full = path.resolve()
    group = atoms.info.get("group", f"{full.parent.name}/{full.name}:{atoms.get_chemical_formula()}")
    return Frame(atoms, given, str(path), index, str(family), str(group))
