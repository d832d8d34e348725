"""The contract of a row of the comparison: what is measured, on every calculator in the same way."""

from __future__ import annotations

import importlib.metadata
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from finetune.comparison.figures import Figure, Measured, Tolerance
from finetune.comparison.recorded import NotRecorded, Recorded
from finetune.comparison.verdicts import Judged, Verdict, overall
from finetune.data.checking import check
from finetune.data.compression import plain_name
from finetune.data.frames import Frame, full_stress
from finetune.data.reading import expand, read
from finetune.errors import InputError
from finetune.properties import Properties

FILES = ("file", "files", "references", "structures", "trajectory")  # settings that name files
FRAMES = (".extxyz", ".xyz", ".db", ".traj")  # files whose frames say what they are
JUDGEMENT = ("title", "tolerances", "only", "limit_s")  # settings that change no figure


@dataclass(frozen=True, kw_only=True)
class Observable(ABC):
    """Something to measure of a calculator.

    Attributes:
        title: heading in the report; empty takes its own.
        tolerances: DFT's own uncertainty by quantity, in place of its own.
        only: columns that it is measured on; empty for all.
        limit_s: longest time that it may take on one calculator, s; None takes that of the comparison.
    """

    heading: ClassVar[str] = ""
    about: ClassVar[str] = ""  # for the report: how it is measured and how its verdict comes about
    exact: ClassVar[str] = (  # for the report: why figures without an interval need none; "" where all have one
        "Figures without an interval are of given structures: a calculator gives the same numbers in every run, so "
        "only equal ones are not distinguishable."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {}
    revision: ClassVar[int] = 1  # raised where its figures change
    alone: ClassVar[bool] = False  # nothing else may run at the same time
    points: ClassVar[bool] = False  # it takes single points of given structures only, so recorded labels answer
    strict: ClassVar[Sequence[str]] = ()  # quantities that pass or fail, nothing in between
    lacking: ClassVar[str] = "without a number"  # what a phase or pair is that has no figure
    packages: ClassVar[Sequence[str]] = ()  # of extras that it needs, and whose versions decide figures

    title: str = ""
    tolerances: Mapping[str, Tolerance] | None = None
    only: Sequence[str] = ()
    limit_s: float | None = None

    @abstractmethod
    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Measure a calculator.

        Args:
            calculator: any ASE calculator.
            place: a directory of its own, kept while it is not finished, for what takes long.
        """

    def recorded(self, calculator: Recorded, place: Path) -> Measured:
        """Measure DFT from what is recorded of it: nothing, where more than points of given structures is needed."""
        return self.measure(calculator, place) if self.points else Measured()

    def against(self, measured: Measured, reference: Measured) -> list[Figure]:
        """Figures that take both, a calculator's and the reference: distances between curves."""
        return []

    def verdict(self, measured: Measured, judged: Sequence[Judged]) -> Verdict:
        """A cell in a few words.

        Args:
            measured: what was found of the calculator.
            judged: its figures beside the reference.
        """
        return overall(judged, self.lacking)

    def learnable(self) -> list[Frame]:
        """Labelled frames that it compares with and that a model may have been trained on."""
        files = getattr(self, "files", None) if self.points else None
        return read(list(files), labelled=False) if files else []

    def numbers(self) -> set[int]:
        """Return the atomic numbers of the structures in its files; `file` may be of any other kind."""
        paths = [str(path) for path in self._named([name for name in FILES if name != "file"])]
        return {int(z) for _, atoms in (starts(paths, 20) if paths else []) for z in atoms.numbers}

    def check(self) -> None:
        """Raise `InputError` where it cannot work: a file that is not there, an extra that is not installed."""
        self.inputs()
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            name = type(self).__name__
            raise InputError(f"{name} needs {', '.join(missing)}; pip install 'finetune-interface[compare]'")

    def inputs(self) -> list[Path]:
        """Files that it reads; their contents belong to its identity.

        Raises:
            InputError: one is not there.
        """
        return self._named(FILES)

    def _named(self, settings: Sequence[str]) -> list[Path]:
        """The files that some settings name."""
        named = [getattr(self, field.name) for field in fields(self) if field.name in settings]
        names = [name for value in named if value for name in ([value] if isinstance(value, str | Path) else value)]
        return expand(names) if names else []

    def settings(self) -> dict[str, Any]:
        """What decides its figures, beside files, as plain values by name."""
        left = (*JUDGEMENT, *FILES)  # the contents of files count, not where they are
        kept = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in left}
        made = {name: importlib.metadata.version(name) for name in self.packages if find_spec(name) is not None}
        return {
            "observable": type(self).__name__,
            "revision": self.revision,
            **{name: _canonical(value) for name, value in kept.items()},
            **made,
        }

    def name(self) -> str:
        """Its heading in the report."""
        return self.title or self.heading or type(self).__name__

    def limits(self) -> dict[str, Tolerance]:
        """DFT's own uncertainty by quantity."""
        return {**self.usual, **(self.tolerances or {})}


def _canonical(value: Any) -> Any:
    """A setting as plain values, the same whether it came from YAML or from Python."""
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical(item) for item in value]
    if isinstance(value, bool | str) or value is None:
        return value
    return float(value) if isinstance(value, int | float) else repr(value)


def starts(files: Sequence[str], most: int | None = None) -> list[tuple[str, Atoms]]:
    """Names (groups) and structures of files of any kind that ASE reads; of each file `most`, evenly spread.

    Constraints of the files stay on the structures: fixed atoms stay in place in dynamics. Energies, forces and
    stresses from `single_points` are those of the calculator, without constraints.

    Raises:
        InputError: a file that is not there, or holds no structure.
    """
    found: list[tuple[str, Atoms]] = []
    for path in expand(list(files)):
        own = _of_file(path)
        few = len(own) if most is None else min(most, len(own))
        found += [own[k] for k in np.linspace(0, len(own) - 1, few).round().astype(int)]
    return found


def _of_file(path: Path) -> list[tuple[str, Atoms]]:
    frames = read(path, labelled=False)
    check(frames, labelled=False)
    if plain_name(path).endswith(FRAMES):
        return [(frame.group, frame.atoms) for frame in frames]
    return [(Path(plain_name(path)).stem, frame.atoms) for frame in frames]


def single_points(frames: Sequence[Atoms], calculator: BaseCalculator) -> list[Properties | None]:
    """What a calculator says of each frame; None for a structure that is not recorded, NaN for a stress not given."""
    return [_single_point(frame.copy(), calculator) for frame in frames]


def _single_point(atoms: Atoms, calculator: BaseCalculator) -> Properties | None:
    atoms.set_constraint()  # a fixed atom has a force too, which ASE would set to zero
    atoms.calc = calculator
    try:
        energy = atoms.get_potential_energy()
        energy = getattr(calculator, "results", {}).get("free_energy", energy)  # what forces are derivatives of
    except NotRecorded:
        return None
    try:
        stress = full_stress(atoms.get_stress()) if atoms.cell.rank == 3 else np.full((3, 3), np.nan)
    except NotImplementedError:
        stress = np.full((3, 3), np.nan)
    spread = getattr(calculator, "results", {}).get("forces_std")
    return Properties(
        energy=torch.tensor([float(energy)], dtype=torch.float64),
        forces=torch.from_numpy(np.array(atoms.get_forces(), dtype=float)),
        stress=torch.from_numpy(stress)[None],
        forces_std=None if spread is None else torch.from_numpy(np.array(spread, dtype=float)),
    )
