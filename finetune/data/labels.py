"""Where the labels of a structure stand: under keys of the user's choice, or on a stored calculator."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from finetune.data.frames import PROPERTIES
from finetune.errors import InputError, UnlabelledError

Named = tuple[str, Atoms, bool]  # the frame in words, its structure, and whether it is VASP output (which has no keys)


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a structure's `info` (energy, stress) and `arrays` (forces, magmoms).

    The name of a stored ASE result (`energy`, `free_energy`, `forces`, `stress`, `magmoms`) is found there as well.

    Args:
        energy: total energy, eV.
        forces: eV/Å, shape atoms 3.
        stress: eV/Å³, positive under tension, 3x3 or Voigt order xx yy zz yz xz xy.
        magmoms: magnetic moments, Bohr magnetons, shape atoms.
    """

    energy: str = "REF_energy"
    forces: str = "REF_forces"
    stress: str = "REF_stress"
    magmoms: str = "REF_magmoms"


@dataclass(frozen=True)
class _Found:
    """Labels of one frame by the place that they stand in."""

    stored: dict[str, Any]  # under the keys in info and arrays
    named: dict[str, Any]  # under the keys among the calculator's results
    results: dict[str, Any]  # the calculator's results under their own names

    def chosen(self) -> dict[str, Any]:
        """What is taken: a frame that has labels under its keys has no others."""
        return {**({} if self.stored else self.results), **self.named, **self.stored}


def find_labels(frames: Sequence[Named], keys: LabelKeys, labelled: bool = True) -> list[dict[str, Any]]:
    """The labels of each frame, by property, as they are stored; a label that a frame lacks is not in its dict.

    Raises:
        InputError: with `labelled`, no labels at all, a key of the user's that no frame has, or labels that stand under
            the keys in some frames and only on calculators in others.
    """
    found = [_find(atoms, keys) for _, atoms, _ in frames]
    if labelled:
        _check_keys(frames, found, keys)
        _check_mixed(frames, found, keys)
        _check_energies(frames, found)
        _warn_ignored(found, keys)
        _warn_near(frames, found)
    return [place.chosen() for place in found]


def _warn_near(frames: Sequence[Named], found: Sequence[_Found]) -> None:
    """Tell of forces or stress that no frame has while some entry is called much the same."""
    there = {key for _, atoms, _ in frames for key in (*atoms.arrays, *atoms.info)}
    for name in ("forces", "stress"):
        near = sorted(key for key in there if name.rstrip("s") in key.lower())
        if near and not any(name in place.chosen() for place in found):
            warnings.warn(
                f"{_files(frames)}: no frame has {name}, but there is {near[0]}; if that is it, "
                f"set keys.{name}={near[0]}",
                stacklevel=2,
            )


def _find(atoms: Atoms, keys: LabelKeys) -> _Found:
    results = {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}
    names = asdict(keys)
    stored = {p: store[k] for p, k in names.items() for store in (atoms.arrays, atoms.info) if k in store}
    named = {p: results[k] for p, k in names.items() if k in results}
    own = {p: results[p] for p in PROPERTIES if p in results}
    if "free_energy" in results:
        own["energy"] = results["free_energy"]
    return _Found(stored, named, own)


def _check_keys(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """Every key that is not a default is there in some frame, and there is some label at all."""
    there = {name for _, atoms, _ in frames for name in _names(atoms)}
    defaults = asdict(LabelKeys())
    for name, key in asdict(keys).items():
        if key != defaults[name] and not any(name in place.stored or name in place.named for place in found):
            near = difflib.get_close_matches(key, there, n=3, cutoff=0.4) or sorted(there)
            raise InputError(
                f"no frame of {_files(frames)} has the {name} key {key!r}; it has {', '.join(near) or 'no keys'}. "
                f"Set keys.{name} to what the file calls its {name}"
            )
    if not any(place.chosen() for place in found):
        wanted = ", ".join(asdict(keys).values())
        hints = [f"keys.{p}={k}" for p in PROPERTIES for k in sorted(there) if p.rstrip("s") in k.lower()]
        remedy = f"perhaps {', '.join(hints)}" if hints else f"the keys are {', '.join(sorted(there)) or 'none'}"
        raise UnlabelledError(f"{_files(frames)}: no labels, neither {wanted} nor stored calculator results; {remedy}")


def _check_mixed(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """No frame has labels only on a calculator while others have them under keys; VASP output, without keys, may."""
    pairs = [(name, place) for (name, _, vasp), place in zip(frames, found, strict=True) if not vasp]
    keyed = next(((name, place) for name, place in pairs if place.stored), None)
    other = next(((name, place) for name, place in pairs if not place.stored and place.results), None)
    if keyed and other:
        label = next(iter(keyed[1].stored))
        raise InputError(
            f"mixed label keys: {keyed[0]} has its {label} under {asdict(keys)[label]!r}, but {other[0]} has "
            f"{', '.join(other[1].results)} only on its stored calculator; write the same keys everywhere, or drop one "
            "kind of frames"
        )


def _check_energies(frames: Sequence[Named], found: Sequence[_Found]) -> None:
    """Energies on calculators are all free energies or none is: the two differ by the smearing's entropy."""
    kinds: dict[bool, str] = {}
    for (name, atoms, _), place in zip(frames, found, strict=True):
        if not place.stored and "energy" in place.results and "energy" not in place.named:
            kinds.setdefault("free_energy" in atoms.calc.results, name)
    if len(kinds) == 2:
        raise InputError(
            f"mixed energies: {kinds[True]} has a free energy, {kinds[False]} only an energy, and with smearing these "
            "differ; set keys.energy to energy to take that one everywhere, or give the two separately"
        )


def _warn_ignored(found: Sequence[_Found], keys: LabelKeys) -> None:
    """Say which calculator results are not taken because the frames have keys."""
    lost = {p for place in found if place.stored for p in place.results if p not in place.chosen()}
    for name in sorted(lost):
        warnings.warn(
            f"{name} on stored calculators is ignored, because these frames have other labels under their keys and "
            f"none under {asdict(keys)[name]!r}; set keys.{name} to {name} if they belong together",
            stacklevel=2,
        )


def _names(atoms: Atoms) -> set[str]:
    """Keys that could be labels: numbers in info and arrays, and calculator results."""
    arrays = set(atoms.arrays) - {"numbers", "positions"}
    info = {key for key, value in atoms.info.items() if isinstance(value, int | float | np.number | np.ndarray | list)}
    return arrays | info | ({*atoms.calc.results} if atoms.calc is not None else set())


def _files(frames: Iterable[Named]) -> str:
    """The files that frames stand in, in words."""
    files = list(dict.fromkeys(name.split(" of ", 1)[1] for name, _, _ in frames))
    return ", ".join(files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
