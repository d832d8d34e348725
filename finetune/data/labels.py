"""Where the labels of a structure stand: under keys of the user's choice, or on a stored calculator."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from ase import Atoms

from finetune.data.frames import PROPERTIES, full_stress
from finetune.errors import InputError, UnlabelledError

Named = tuple[str, Atoms, bool]  # the frame in words, its structure, and whether it is VASP output (which has no keys)
VIRIALS, GRADIENT = "virials", "gradient"
NOT_ENERGIES = re.compile(  # keys with "energy" in them that are no total energy
    r"kinetic|atomi|energies|per_?atom|/atom|formation|cohesive|std|cutoff|cut_off|correction|hull|fermi|gap|error|"
    r"shift|zero|interaction|reference_energ|unit|zpe|vdw|disp|ediff|weight",
    re.IGNORECASE,
)
TOTAL = re.compile(r"energy|e_?tot(al)?|toten|e_?pot(ential)?|pot_?(eng|energy)|pe|e_?dft|e_?0|e", re.IGNORECASE)
NOT_FORCES = re.compile(r"std|error|weight|max|norm|rms|unit|constant", re.IGNORECASE)
SAME_ENERGY = 1e-3  # eV/atom between an energy and a free energy that are the same for any purpose


@dataclass(frozen=True)
class LabelKeys:
    """Names of the labels in a structure's `info` (energy, stress, virials) and `arrays` (forces, magmoms).

    The name of a stored ASE result (`energy`, `free_energy`, `forces`, `stress`, `magmoms`) is found there as well.
    None (`null` in a config) leaves a label out.

    Args:
        energy: total energy, eV.
        forces: eV/Å, shape atoms 3.
        stress: eV/Å³, positive under tension, 3x3 or Voigt order xx yy zz yz xz xy.
        magmoms: magnetic moments, Bohr magnetons, shape atoms.
        virials: eV, 3x3 or Voigt order; where a frame has no stress, it is -virial / volume. Not read by default.
    """

    energy: str | None = "REF_energy"
    forces: str | None = "REF_forces"
    stress: str | None = "REF_stress"
    magmoms: str | None = "REF_magmoms"
    virials: str | None = None

    def names(self) -> dict[str, str]:
        """The keys that are read, by property."""
        return {name: key for name, key in asdict(self).items() if key is not None and name in PROPERTIES}


@dataclass(frozen=True)
class _Found:
    """Labels of one frame by the place that they stand in."""

    stored: dict[str, Any]  # under the keys in info and arrays
    named: dict[str, Any]  # under the keys among the calculator's results
    results: dict[str, Any]  # the calculator's results under their own names
    virials: Any = None  # as the file gives them, where they are asked for
    volume: float = 0.0  # Å³

    def chosen(self) -> dict[str, Any]:
        """What is taken: a frame that has labels under its keys has no others."""
        labels = {**({} if self.stored else self.results), **self.named, **self.stored}
        if self.virials is not None and "stress" not in labels:
            labels["stress"] = _stress(self.virials, self.volume)
        return labels


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
        _warn_near(frames, found, keys)
        _warn_two_energies(frames, found, keys)
        if keys.forces is not None and _is_gradient(keys.forces):
            warnings.warn(
                f"--keys.forces {keys.forces}: a gradient is read as forces, with the sign that it has; "
                f"{hint(GRADIENT, keys.forces)}",
                stacklevel=2,
            )
    labels = [place.chosen() for place in found]
    return _without_vectors(frames, labels) if labelled else labels


def unread(atoms: Atoms) -> dict[str, str]:
    """Keys that look like an energy, forces, a gradient, stress or virials, by property, the likeliest of each."""
    scalars = {k: v for k, v in atoms.info.items() if _numeric(v) and np.size(v) == 1}
    tensors = {k: v for k, v in atoms.info.items() if _numeric(v) and np.size(v) in (6, 9)}
    vectors = {k: v for k, v in atoms.arrays.items() if v.ndim == 2 and v.shape[1] == 3 and _numeric(v)}
    likely = {
        "energy": [k for k in scalars if _is_energy(k)],
        "forces": [k for k in vectors if "force" in k.lower() and not NOT_FORCES.search(k)],
        GRADIENT: [k for k in vectors if _is_gradient(k)],
        "stress": [k for k in tensors if "stress" in k.lower() and "viria" not in k.lower()],
        VIRIALS: [k for k in tensors if "viria" in k.lower() or k.lower() in ("vir", "w")],
    }
    return {name: min(found, key=lambda key: (len(key), key)) for name, found in likely.items() if found}


def hint(name: str, key: str) -> str:
    """The option that reads a label from a key, or what to write instead of a gradient."""
    if name == GRADIENT:
        return f"forces are minus the gradient: store -{key} as forces, in eV/Å"
    return f"--keys.{name} {key} (of a fit: --data.keys.{name} {key})"


def _is_gradient(key: str) -> bool:
    return re.search(r"grad", key, re.IGNORECASE) is not None and not NOT_FORCES.search(key)


def _is_energy(key: str) -> bool:
    return ("energy" in key.lower() or TOTAL.fullmatch(key) is not None) and not NOT_ENERGIES.search(key)


def _numeric(value: Any) -> bool:
    """Whether a value is made of finite numbers; booleans are not."""
    try:
        array = np.asarray(value)
    except ValueError:  # lists of unequal lengths
        return False
    return array.dtype.kind in "iuf" and bool(np.isfinite(array).all())


def _stress(virials: Any, volume: float) -> Any:
    """The stress (eV/Å³) of virials (eV); what cannot be one is handed on, to be refused with its frame."""
    if not _numeric(virials) or np.shape(virials) not in ((3, 3), (6,), (9,)) or volume <= 0:
        return virials if volume > 0 else np.zeros((3, 3))
    return -full_stress(virials) / volume


def _warn_near(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """Warn of energies, forces, stress or virials that a frame has under another key and that are not read."""
    wanted = {**dict.fromkeys(("energy", "forces", "stress")), **keys.names()}
    lost: dict[tuple[str, str], int] = {}
    for (_, atoms, _), place in zip(frames, found, strict=True):
        labels, near = place.chosen(), unread(atoms)
        for name, key in near.items():
            label = {VIRIALS: "stress", GRADIENT: "forces"}.get(name, name)
            if label not in labels and wanted.get(label) is not None:
                lost[name, key] = lost.get((name, key), 0) + 1
    for (name, key), count in lost.items():
        if name == VIRIALS:
            if ("stress", key) not in lost and not any(other == "stress" for other, _ in lost):
                warnings.warn(
                    f"{_files(frames)}: no stress is read in {count} of {len(frames)} frames, but they have {key}. "
                    f"{hint(VIRIALS, key)} reads it: stress = -virial / volume",
                    stacklevel=2,
                )
            continue
        if name == GRADIENT:
            if not any(other == "forces" for other, _ in lost):
                warnings.warn(
                    f"{_files(frames)}: no forces are read in {count} of {len(frames)} frames, but they have {key}; "
                    f"{hint(GRADIENT, key)}",
                    stacklevel=2,
                )
            continue
        warnings.warn(
            f"{_files(frames)}: no {name} label is read in {count} of {len(frames)} frames, but they have {key}. "
            f"If that is it, give {hint(name, key)}",
            stacklevel=2,
        )


def _warn_two_energies(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """Warn where a file other than VASP's has two energies and the free one, which is read, is another number."""
    differ = []
    for (name, atoms, vasp), place in zip(frames, found, strict=True):
        if vasp or place.stored or "energy" in place.named or atoms.calc is None or keys.energy is None:
            continue
        two = [atoms.calc.results.get(key) for key in ("energy", "free_energy")]
        if all(_numeric(value) and np.size(value) == 1 for value in two if value is not None) and None not in two:
            difference = abs(float(np.ravel(two[0])[0]) - float(np.ravel(two[1])[0]))
            if difference > SAME_ENERGY * len(atoms):
                differ.append((name, difference))
    if differ:
        warnings.warn(
            f"{_files(frames)}: {len(differ)} of {len(frames)} frames have an energy and a free energy that differ, "
            f"first {differ[0][0]} by {differ[0][1]:.3g} eV. The free energy is read, since forces are its "
            f"derivatives; {hint('energy', 'energy')} reads the other",
            stacklevel=2,
        )


def _without_vectors(frames: Sequence[Named], labels: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Labels without magnetic moments that are vectors, of which no model here learns; a warning says so."""
    vectors = []
    for number, (given, (_, atoms, _)) in enumerate(zip(labels, frames, strict=True)):
        if "magmoms" in given and np.shape(given["magmoms"]) == (len(atoms), 3):
            vectors.append(number)
            del given["magmoms"]
    if vectors:
        warnings.warn(
            f"{_files(frames)}: magnetic moments of {len(vectors)} of {len(frames)} frames are vectors "
            f"(non-collinear), first {frames[vectors[0]][0]}; they are left out. --keys.magmoms null (of a fit: "
            "--data.keys.magmoms null) leaves them out without this warning",
            stacklevel=2,
        )
    return labels


def _find(atoms: Atoms, keys: LabelKeys) -> _Found:
    results = {} if atoms.calc is None else {k: v for k, v in atoms.calc.results.items() if v is not None}
    names = keys.names()
    stored = {p: store[k] for p, k in names.items() for store in (atoms.arrays, atoms.info) if k in store}
    named = {p: results[k] for p, k in names.items() if k in results}
    own = {p: results[p] for p in PROPERTIES if p in results and p in names}
    if "free_energy" in results and "energy" in names:
        own["energy"] = results["free_energy"]
    virials = None if keys.virials is None else atoms.info.get(keys.virials, results.get(keys.virials))
    return _Found(stored, named, own, virials, float(atoms.get_volume()) if atoms.cell.rank == 3 else 0.0)


def _check_keys(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """Every key that is not a default is there in some frame, and there is some label at all."""
    there = {name for _, atoms, _ in frames for name in _names(atoms)}
    defaults = asdict(LabelKeys())
    wanted = keys.names() if keys.virials is None else {**keys.names(), VIRIALS: keys.virials}
    for name, key in wanted.items():
        known = any(
            place.virials is not None if name == VIRIALS else name in place.stored or name in place.named
            for place in found
        )
        if key != defaults[name] and not known:
            near = difflib.get_close_matches(key, there, n=3, cutoff=0.4) or sorted(there)
            raise InputError(
                f"no frame of {_files(frames)} has the {name} key {key!r}; it has {', '.join(near) or 'no keys'}. "
                f"Set keys.{name} to what the file calls its {name}"
            )
    if not any({"energy", "forces", "stress"} & set(place.chosen()) for place in found):
        hints: dict[str, str] = {}
        for _, atoms, _ in frames:
            for name, key in unread(atoms).items():
                hints.setdefault(name, key)
        if "stress" in hints:
            hints.pop(VIRIALS, None)
        gradient = hints.pop(GRADIENT, None)
        options = [f"--keys.{name} {key}" for name, key in hints.items()]
        options += [hint(GRADIENT, gradient)] if gradient is not None and "forces" not in hints else []
        text = ", ".join(options)
        remedy = f"perhaps {text}" if options else f"the keys are {', '.join(sorted(there)) or 'none'}"
        raise UnlabelledError(
            f"{_files(frames)}: no labels, neither {', '.join(wanted.values())} nor stored calculator results; "
            f"{remedy}. A fit takes --data.keys in place of --keys"
        )


def _check_mixed(frames: Sequence[Named], found: Sequence[_Found], keys: LabelKeys) -> None:
    """No frame has labels only on a calculator while others have them under keys; VASP output, without keys, may."""
    pairs = [(name, place) for (name, _, vasp), place in zip(frames, found, strict=True) if not vasp]
    keyed = next(((name, place) for name, place in pairs if place.stored), None)
    other = next(((name, place) for name, place in pairs if not place.stored and place.results), None)
    if keyed and other:
        label = next(iter(keyed[1].stored))
        raise InputError(
            f"mixed label keys: {keyed[0]} has its {label} under {keys.names()[label]!r}, but {other[0]} has "
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
            f"none under {keys.names()[name]!r}; set keys.{name} to {name} if they belong together",
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
