"""Where labels lie while they come: one directory, a file for each frame, each written once.

| file | what |
|---|---|
| `method.json` | what the labels depend on; another method needs another directory |
| `ID.extxyz` | a labelled frame; ID is the first 16 digits of the hash of its structure |
| `failed/ID.json`, `failed/ID.extxyz` | a frame that failed, why, and how often its worker died |
| `logs/ID.txt` | what the code printed |
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from ase import Atoms

from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.files import damaged, make_folder, read_frames, read_record, sweep, write_frames, write_text
from finetune.labelling.core import Method, Outcome
from finetune.locks import locked

DEATHS = 2  # times that a worker may die over a frame, computed alone, before it is kept aside
LABELLED = "*.extxyz"  # files of a store
RETRIED = "Remove it, and the same command tries the frame again."
NEW: Mapping[str, Any] = MappingProxyType({"reasons": [], "deaths": 0, "suspect": False, "lost": ""})


class Store:
    """Labelled and failed frames of one method in one directory.

    Args:
        directory: of the labels; it is made, and gets the method, where frames are labelled.
        labeller: whose labels these are.

    Raises:
        InputError: the directory holds labels of another method.
    """

    def __init__(self, directory: Path, labeller: Method) -> None:
        self.directory, self.labeller, self.method = directory, labeller, labeller.method_hash()
        check_method(directory, labeller, LABELLED)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs out while this one computes, and clear away what a killed one left half written.

        Raises:
            InputError: another run is computing into this directory, or it is of another method.
        """
        with locked(self.directory, "choose another --output"):
            claim(self.directory, self.labeller, LABELLED)
            for folder in ("failed", "logs"):
                make_folder(self.directory / folder)
            sweep(self.directory)
            yield

    def done(self, name: str) -> bool:
        """Whether a frame has its labels."""
        return (self.directory / f"{name}.extxyz").exists()

    def read(self, name: str) -> Atoms:
        """A labelled frame.

        Raises:
            InputError: the file is damaged, of another structure or method than its name and directory say, or has no
                labels.
        """
        path = self.directory / f"{name}.extxyz"
        remedy = "Remove it, and the same command labels the frame anew."
        frames = read_frames(path, remedy)
        atoms = frames[0]
        if len(frames) > 1 or (found := identity(atoms)) != name:
            got = f"{len(frames)} frames" if len(frames) > 1 else f"its structure has the ID {found}"
            raise damaged(path, got, remedy)
        labels = [atoms.info.get("REF_energy", np.nan), atoms.arrays.get("REF_forces", np.nan)]
        if not all(np.asarray(label).dtype.kind in "fiu" and np.isfinite(label).all() for label in labels):
            raise damaged(path, "no finite REF_energy and REF_forces", remedy)
        if atoms.info.get("label_method", self.method) != self.method:
            raise damaged(path, f"its label_method is {atoms.info['label_method']}, not {self.method}", remedy)
        return atoms

    def reasons(self, name: str) -> list[str]:
        """Why a frame failed for good; empty where it did not."""
        record = self._record(name)
        if record["deaths"] >= DEATHS:
            lost = f" ({record['lost']})" if record["lost"] else ""
            return [*record["reasons"], f"its worker died {record['deaths']} times, perhaps for want of memory{lost}"]
        reasons: list[str] = record["reasons"]
        return reasons

    def failed_s(self, name: str) -> float:
        """Seconds that were spent on a frame without a label coming of it."""
        return float(self._record(name).get("wall_s", 0.0))

    def put(self, name: str, atoms: Atoms, outcome: Outcome) -> None:
        """Keep what became of a frame: labels, or the frame aside with its reasons; the log in both cases."""
        if outcome.log:
            write_text(self.directory / "logs" / f"{name}.txt", outcome.log)
        if outcome.atoms is not None and identity(outcome.atoms) != name:
            outcome = Outcome(None, ["the labeller returned another structure"], "", outcome.wall_s)
        if outcome.atoms is not None:
            write_frames(self.directory / f"{name}.extxyz", [outcome.atoms])
            self.forget(name)
        else:
            seconds = round(self.failed_s(name) + outcome.wall_s, 1)
            self._aside(name, atoms, {**NEW, "reasons": outcome.reasons, "wall_s": seconds})

    def take(self, name: str, atoms: Atoms) -> None:
        """Take over labels that a frame already has."""
        if not self.done(name):
            write_frames(self.directory / f"{name}.extxyz", [atoms])

    def died(self, name: str, atoms: Atoms, alone: bool, why: str = "") -> None:
        """Note that a worker died over a frame; where others were computed at the same time it is only a suspect."""
        record = self._record(name)
        self._aside(name, atoms, {**record, "suspect": True, "deaths": record["deaths"] + alone, "lost": why})

    def lose(self, name: str, atoms: Atoms, why: str) -> None:
        """Note why nobody has computed a frame, which is no fault of the frame."""
        self._aside(name, atoms, {**self._record(name), "lost": why})

    def lost(self, name: str) -> str:
        """Why nobody has computed a frame, or what was said when its worker died; empty where it is not known."""
        return str(self._record(name)["lost"])

    def again(self, name: str, atoms: Atoms) -> None:
        """Have a frame that failed computed again; the time that was spent on it is not forgotten."""
        self._aside(name, atoms, {**NEW, "wall_s": self.failed_s(name)})

    def suspect(self, name: str) -> bool:
        """Whether a worker died while this frame was computed, so that it is computed alone from then on."""
        return bool(self._record(name)["suspect"])

    def forget(self, name: str) -> None:
        """Forget that a frame failed."""
        for suffix in ("json", "extxyz"):
            with contextlib.suppress(FileNotFoundError):
                (self.directory / "failed" / f"{name}.{suffix}").unlink()

    def _aside(self, name: str, atoms: Atoms, record: dict[str, Any]) -> None:
        write_frames(self.directory / "failed" / f"{name}.extxyz", [atoms])
        write_text(self.directory / "failed" / f"{name}.json", json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    def _record(self, name: str) -> dict[str, Any]:
        path = self.directory / "failed" / f"{name}.json"
        record = {**NEW, **(read_record(path, RETRIED) if path.exists() else {})}
        kinds = {"reasons": list, "deaths": int, "suspect": bool, "lost": str, "wall_s": int | float}
        wrong = [key for key, kind in kinds.items() if not isinstance(record.get(key, 0), kind)]
        if wrong or not all(isinstance(reason, str) for reason in record["reasons"]):
            raise damaged(path, f"{', '.join(wrong or ['reasons'])} of another type", RETRIED)
        return record


def claim(directory: Path, method: Method, holds: str) -> None:
    """Write the method of a directory, or make sure that it is this one.

    Args:
        directory: of labels, or of folders of input.
        method: of what comes into it.
        holds: pattern of what is in it; where there is none, it has no method yet.

    Raises:
        InputError: the directory is of another method.
    """
    if not check_method(directory, method, holds):
        write_text(directory / "method.json", json.dumps(method.method(), indent=1, sort_keys=True) + "\n")


def check_method(directory: Path, method: Method, holds: str) -> bool:
    """Whether a directory is of a method; false where it has no method yet.

    Raises:
        InputError: it is of another method; see `claim` for the arguments.
    """
    record, text = directory / "method.json", json.dumps(method.method())
    if not record.exists() or not any(directory.glob(holds)):
        return False
    before = read_record(record, "Remove it if the labels are of the method of this command; their frames are checked.")
    if before != json.loads(text):
        raise InputError(
            f"{directory} is of another method ({_difference(before, json.loads(text))}); "
            "frames of two methods do not mix: choose another --output"
        )
    return True


def identity(atoms: Atoms) -> str:
    """The first 16 digits of the SHA-256 of elements, positions (to 1e-5 Å), cell, periodicity and initial moments.

    Positions are rounded to the 8 decimals of extended XYZ first, so that writing and reading changes nothing.
    """
    written = Atoms(atoms.numbers, atoms.positions.round(8), cell=atoms.cell.array.round(8), pbc=atoms.pbc)
    structure = Frame(written, {}, "", 0, "", "").structure_hash
    moments = atoms.get_initial_magnetic_moments().round(5) + 0.0
    if moments.any():
        structure = hashlib.sha256(structure.encode() + moments.astype("<f8").tobytes()).hexdigest()
    return structure[:16]


def without_labels(atoms: Atoms) -> Atoms:
    """The structure with what is known of its making; labels of any kind are left out."""
    bare = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
    bare.info = {key: value for key, value in atoms.info.items() if not of_label(key)}
    if "initial_magmoms" in atoms.arrays and np.any(atoms.arrays["initial_magmoms"]):
        bare.set_initial_magnetic_moments(atoms.arrays["initial_magmoms"])
    return bare


def of_label(key: str) -> bool:
    """Whether an entry of `info` belongs to the labels, not to the structure."""
    return key.startswith(("REF_", "label_")) or key == "wall_s"


def _difference(one: Mapping[str, Any], two: Mapping[str, Any]) -> str:
    """The first thing in which two methods differ, in words."""
    for key in sorted({*one, *two}):
        if one.get(key) != two.get(key):
            return f"its {key} is {json.dumps(one.get(key))}, now it is {json.dumps(two.get(key))}"
    return "written otherwise"
