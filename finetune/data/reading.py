"""Files of labelled structures: extended XYZ, ASE databases and trajectories, VASP output."""

from __future__ import annotations

import difflib
import glob
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ase import Atoms

from finetune.data.compression import COMPRESSED
from finetune.data.frames import Frame
from finetune.data.labels import LabelKeys, find_labels
from finetune.data.structures import UNREADABLE, VASP, kind_of, read_images, unknown_elements
from finetune.display import printable
from finetune.errors import InputError

__all__ = ["UNREADABLE", "expand", "read"]

KINDS = "extended XYZ (.extxyz, .xyz), ASE database (.db), ASE trajectory (.traj), vasprun.xml, OUTCAR"
NUMBER = re.compile(r"\d*\.?\d+%?")


def read(paths: str | Path | Sequence[str | Path], keys: LabelKeys | None = None, labelled: bool = True) -> list[Frame]:
    """Labelled frames of files, in the order of the files.

    Labels are read from the keys first, then from the calculator results that ASE stores; of its two energies the free
    energy is taken where there is one, because forces and stress are its derivatives (VASP's `energy` is extrapolated
    to zero smearing and is not consistent with them). Say `LabelKeys(energy="energy")` to have the other one.

    `family` and `group` are read from `info`. Without them the family is the name of the file ("all" for VASP output),
    and frames of one file (named with its folder) that have the same composition are one group: they may be one
    trajectory, and nothing in the file says otherwise.

    Args:
        paths: files, folders (all `*.extxyz` in them, compressed or not) and glob patterns. Without labels, of any
            format that ASE reads.
        keys: names of the labels in `info` and `arrays`; default `REF_energy`, `REF_forces`, `REF_stress`,
            `REF_magmoms`.
        labelled: labels are needed; False for structures to predict.

    Raises:
        InputError: a file that is not there, empty or unreadable; no labels; a label key that no frame has; labels that
            partly stand under the keys and partly on calculators.
    """
    images: list[tuple[Path, int, Atoms, bool]] = []
    for path in expand([paths] if isinstance(paths, str | Path) else paths):
        kind = kind_of(path)
        if labelled and kind is None:
            raise InputError(f"{path}: cannot tell its format from its name; known are {KINDS}")
        images += [(path, index, atoms, kind in VASP) for index, atoms in read_images(path, labelled)]
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
            found = sorted(file for suffix in ("", *COMPRESSED) for file in path.glob(f"*.extxyz{suffix}"))
        else:
            found = [path] if path.exists() else _matching(str(path))
        if not found:
            raise InputError(_missing(path))
        files |= {file.resolve(): file for file in found if file.resolve() not in files}
    if not files:
        raise InputError("no data files were named; give at least one")
    return list(files.values())


def _matching(pattern: str) -> list[Path]:
    """Files that a pattern matches; brackets are part of the name where they match nothing as a set of characters."""
    names = glob.glob(pattern, recursive=True) or glob.glob(pattern.replace("[", "[[]"), recursive=True)
    return sorted(map(Path, names))


def _missing(path: Path) -> str:
    """What to say of a path that leads to no file."""
    if NUMBER.fullmatch(str(path)):
        return (
            f"{path}: got a number, expected a file, folder or pattern. Shares of train, valid and test are "
            "--data.split '[0.8, 0.1, 0.1]'"
        )
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


def _frame(path: Path, index: int, atoms: Atoms, vasp: bool, given: dict[str, Any]) -> Frame:
    atoms.calc = None
    family = atoms.info.get("family", "all" if vasp else path.name.split(".")[0])
    full = path.resolve()
    formula = "" if unknown_elements(atoms) else atoms.get_chemical_formula()  # `check` refuses such a frame
    group = atoms.info.get("group", f"{full.parent.name}/{full.name}:{formula}")
    return Frame(atoms, given, printable(path), index, printable(family), printable(group))
