"""Labels by any ASE calculator, made anew for every frame where the work is done."""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import inspect
import re
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import BaseCalculator

from finetune import permissions
from finetune.errors import InputError
from finetune.labelling.core import Labeller, Outcome
from finetune.labelling.kpoints import Grid

LOG_BYTES = 200_000  # of a log, its end is kept
LOGS = ("log.txt", "*.pwo", "*.out", "*.err", "OUTCAR")  # where codes print
STARTS = ("command", "profile")  # settings that say how a code is started, which the labels do not depend on
EFFORT = ("maxiter",)  # settings that say how long a code tries, which a label that has converged does not depend on
OWN = "install it, or, if it is a file of yours, add --allow with its name or name its folder in PYTHONPATH"
HEAD_BYTES = 100_000  # of a log, where a code says its version
VERSIONS = {  # how programs outside Python print their version
    "PWSCF": re.compile(r"Program PWSCF v\.?\s*([\w.]+)"),
    "VASP": re.compile(r"^\s*vasp\.(\d[\w.]*)", re.MULTILINE),
    "CP2K": re.compile(r"CP2K\| version string:\s+CP2K version (\S+)"),
}
MODELS = ("finetune.calculator", "finetune.calculators.calculator")  # whose labels are those of a model of ours
OBJECTS = ({"class_path"}, {"class_path", "init_args"})  # keys of settings that describe an object
EXTRAS = ("gpaw",)  # codes that an extra of this package brings, by its name


@dataclass(frozen=True)
class Calculated(Labeller):
    """Labels by an ASE calculator.

    The energy is the free energy where the calculator has one, since forces and stress are its derivatives.

    Attributes:
        calculator: where its class is, such as `gpaw.GPAW` or `ase.calculators.espresso.Espresso`; or a function that
            returns one, such as `finetune.calculator`.
        settings: its arguments. Where a text contains `{directory}`, that becomes a folder of the frame's own, and
            `{log}` a file in it that is kept as the log; `{kpoints}` becomes the frame's list of k-points. Objects
            are written as `class_path` and `init_args`.
        fallbacks: changes of the settings that are tried one after the other where the frame fails. They must change
            how the answer is found (mixing, eigensolver, number of steps), not the answer (cutoff, k-points,
            smearing).
        kpoints: the grid behind `{kpoints}`.
        force: a frame with a larger force, eV/Å, has failed.
    """

    calculator: str = "gpaw.GPAW"
    settings: dict[str, Any] = field(default_factory=dict)
    fallbacks: list[dict[str, Any]] = field(default_factory=list)
    kpoints: Grid | None = None
    force: float = 1000.0

    def __post_init__(self) -> None:
        """Check that a command may build the calculator and the objects in its settings."""
        check_classes(self.calculator, self.settings, self.fallbacks)

    def method(self) -> dict[str, Any]:
        """Calculator, settings, version; not fallbacks, where output goes, how it is started, how long it tries.

        The version of ASE says nothing of the codes that ASE starts; theirs is in `label_code` where they print it.
        """
        apart = (*STARTS, *EFFORT)
        settings = {n: value for n, value in self.settings.items() if not _is_place(value) and n not in apart}
        grid = {"kpoints": asdict(self.kpoints)} if self.kpoints else {}
        code = {} if self.calculator.startswith("ase.calculators.") else {"code": self.code()}
        return {"calculator": self.calculator, "settings": settings, **code, **grid}

    def code(self) -> str:
        """Package and version that the calculator comes from."""
        return _version(self.calculator.partition(".")[0])

    def check(self) -> None:
        """Raise `InputError` where the calculator cannot be imported, or k-points are wanted and there is no grid."""
        known = _imported(self.calculator)
        try:
            inspect.signature(known).bind(**self.settings)
        except TypeError as error:
            raise InputError(f"{self.calculator} does not take these settings: {error}") from error
        if "{kpoints}" in self.settings.values() and self.kpoints is None:
            raise InputError("the settings ask for {kpoints} and there is no grid; give kpoints: {length_A: 15}")

    def warn_unseen(self, numbers: Iterable[int]) -> None:
        """Warn of elements that no training frame contains, where the labels are those of a model of ours."""
        if self.calculator in MODELS:
            _imported(self.calculator)(**{**self.settings, "device": "cpu"}).potential.warn_unseen(numbers)

    def label(self, atoms: Atoms) -> Outcome:
        """Label one frame in a temporary folder, with the settings first and then with each fallback."""
        begin, reasons, log, program = time.perf_counter(), [], "", ""
        for changes in [{}, *self.fallbacks]:
            with tempfile.TemporaryDirectory(prefix="label-") as folder:
                labelled, reason = self._attempt(atoms, {**self.settings, **changes}, Path(folder))
                log += _logs(Path(folder))
                program = _program(Path(folder))
            reasons += [reason] if reason else []
            if labelled is not None:
                break
        wall_s = time.perf_counter() - begin
        if labelled is not None:
            code = ", ".join(filter(None, [program, self.code()]))
            labelled.info |= {"label_code": code, "label_method": self.method_hash(), "wall_s": round(wall_s, 1)}
            if reasons:
                labelled.info["label_fallback"] = len(reasons)
        return Outcome(labelled, reasons, log, wall_s)

    def _attempt(self, atoms: Atoms, settings: Mapping[str, Any], folder: Path) -> tuple[Atoms | None, str]:
        """The frame with labels, or None and the reason."""
        work = atoms.copy()
        try:
            points = self.kpoints.points(atoms).tolist() if self.kpoints else None
            filled = {name: points if value == "{kpoints}" else value for name, value in settings.items()}
            calculator = build(self.calculator, _placed(filled, folder))
            work.calc = calculator
            labelled = with_labels(work, calculator)
        except Exception as error:  # noqa: BLE001  a code may raise anything; it is kept with the frame
            where = traceback.extract_tb(error.__traceback__)[-1]
            text = " ".join(str(error).split()) or "no message"
            return None, f"{type(error).__name__}: {text[:500]} ({Path(where.filename).name}:{where.lineno})"
        if getattr(calculator, "converged", True) is False:
            return None, "the calculator says that it has not converged"
        reason = self._fault(labelled)
        return (None, reason) if reason else (labelled, "")

    def _fault(self, atoms: Atoms) -> str:
        """What is wrong with labels that came without an exception; empty where nothing is."""
        values = [np.asarray(atoms.info["REF_energy"]), atoms.arrays["REF_forces"]]
        values += [atoms.info["REF_stress"]] if "REF_stress" in atoms.info else []
        if not all(np.isfinite(value).all() for value in values):
            return "labels that are not finite"
        largest = float(np.linalg.norm(atoms.arrays["REF_forces"], axis=1).max())
        return f"a force of {largest:.0f} eV/Å" if largest > self.force else ""


@cache
def _version(package: str) -> str:
    """The distribution that a package is from and its version; looked up once, as that takes a second."""
    names = importlib.metadata.packages_distributions().get(package, [package])
    try:
        return f"{names[0]} {importlib.metadata.version(names[0])}"
    except importlib.metadata.PackageNotFoundError:
        return package


def with_labels(atoms: Atoms, calculator: BaseCalculator) -> Atoms:
    """A copy with `REF_energy` (eV), `REF_forces` (eV/Å) and, where there is a cell, `REF_stress` (eV/Å³, Voigt).

    Labels are those of the calculator, without constraints: a fixed atom has a force too.
    """
    energy = atoms.get_potential_energy(apply_constraint=False)
    labelled = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=dict(atoms.info))
    if "initial_magmoms" in atoms.arrays:
        labelled.set_initial_magnetic_moments(atoms.get_initial_magnetic_moments())
    labelled.arrays["REF_forces"] = np.asarray(atoms.get_forces(apply_constraint=False), dtype=float)
    if atoms.cell.rank == 3 and atoms.pbc.all() and "stress" in calculator.implemented_properties:
        labelled.info["REF_stress"] = np.asarray(atoms.get_stress(apply_constraint=False), dtype=float)
    labelled.info["REF_energy"] = float(calculator.results.get("free_energy", energy))
    return labelled


def check_classes(path: str, *settings: Any) -> None:
    """Check that a command may build the object behind a dotted name, and those that settings name by `class_path`.

    Raises:
        InputError: a class that needs `--allow`.
    """
    permissions.check(path)
    for value in settings:
        if isinstance(value, Mapping):
            named = [value["class_path"]] if set(value) in OBJECTS else []
            for name in named:
                permissions.check(str(name))
            check_classes(path, *value.values())
        elif isinstance(value, list | tuple):
            check_classes(path, *value)


def build(path: str, arguments: Mapping[str, Any]) -> Any:
    """The object behind a dotted name, called with arguments; those that name a `class_path` are built first."""

    def built(value: Any) -> Any:
        if isinstance(value, Mapping):
            if set(value) in OBJECTS:
                return build(value["class_path"], value.get("init_args", {}))
            return {key: built(item) for key, item in value.items()}
        return [built(item) for item in value] if isinstance(value, list | tuple) else value

    return _imported(path)(**{name: built(value) for name, value in arguments.items()})


def _imported(path: str) -> Callable[..., Any]:
    """What a dotted name leads to.

    Raises:
        InputError: there is no such module or name, with what to install.
    """
    module, _, name = path.rpartition(".")
    package = path.partition(".")[0]
    permissions.check(path)
    try:
        found = getattr(importlib.import_module(module), name)
    except ModuleNotFoundError as error:
        remedy = f"pip install 'finetune-interface[{package}]'" if package in EXTRAS else OWN
        raise InputError(f"the calculator {path} needs {error.name}, which is not installed; {remedy}") from error
    except (ImportError, AttributeError, ValueError) as error:
        near = _near(module, name)
        raise InputError(f"there is no calculator {path!r} ({error}); give module.Class{near}") from error
    if not callable(found):
        raise InputError(f"{path} is not a class or function; give module.Class")
    return found


def _near(module: str, name: str) -> str:
    """A name of a module that may have been meant."""
    try:
        known = [word for word in dir(importlib.import_module(module)) if not word.startswith("_")]
    except (ImportError, ValueError):
        return ""
    near = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean '{module}.{near[0]}'?" if near else ""


def _is_place(value: Any) -> bool:
    return isinstance(value, str) and ("{log}" in value or "{directory}" in value)


def _placed(value: Any, folder: Path) -> Any:
    """Settings with the frame's own folder and log in them."""
    if isinstance(value, str):
        return value.replace("{log}", str(folder / "log.txt")).replace("{directory}", str(folder))
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    return [_placed(item, folder) for item in value] if isinstance(value, list) else value


def _printed(folder: Path) -> list[Path]:
    """The files that a code prints to."""
    return [path for pattern in LOGS for path in sorted(folder.glob(pattern)) if path.is_file()]


def _logs(folder: Path) -> str:
    """The ends of what a code printed."""
    return "".join(path.read_bytes()[-LOG_BYTES:].decode(errors="replace") for path in _printed(folder))


def _program(folder: Path) -> str:
    """Name and version of a program outside Python, from the beginning of what it printed; empty where it says none."""
    for path in _printed(folder):
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES).decode(errors="replace")
        for name, pattern in VERSIONS.items():
            if found := pattern.search(head):
                return f"{name} {found[1]}"
    return ""
