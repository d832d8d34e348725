"""The columns of a comparison: what makes a calculator, where it is used, and what tells it from another."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import os
import pickle
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from ase.calculators.calculator import BaseCalculator

from finetune import calculators
from finetune.calculators import PotentialCalculator
from finetune.comparison.recorded import Recorded
from finetune.data.frames import data_hash
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.labelling.calculated import Calculated, build, check_classes
from finetune.potential import Potential
from finetune.provenance import TrainingData


class Column(ABC):
    """Makes a calculator where it is needed."""

    @abstractmethod
    def calculator(self) -> BaseCalculator:
        """A calculator, made anew."""

    @abstractmethod
    def identity(self) -> str:
        """Text that differs where its numbers may."""

    @abstractmethod
    def provenance(self) -> dict[str, str]:
        """What it is and where it comes from, by words for the report."""

    def fitted_to(self) -> TrainingData | None:
        """Structures that it was trained and validated on; None where they are not known."""
        return None

    def unseen(self, numbers: Iterable[int]) -> set[int]:
        """Elements, by atomic number, that no training frame contains; empty where the training set is not known."""
        return set()


@dataclass(frozen=True)
class Model(Column):
    """A model of ours, or a committee of several.

    Attributes:
        model: a model name, run directory or checkpoint; several make a committee.
        dtype: `float32` or `float64`; None keeps that of the weights.
        device: torch device; None takes the GPU where there is one.
        trusted: see `finetune.load`.
    """

    model: str | list[str] | Potential
    dtype: str | None = None
    device: str | None = None
    trusted: bool = False

    def potential(self) -> Potential:
        """The potential, loaded."""
        return calculators.calculator(self.model, "cpu", trusted=self.trusted).potential

    def calculator(self) -> BaseCalculator:
        """See `finetune.calculator`."""
        return calculators.calculator(self.model, self.device, self.dtype, self.trusted)

    def identity(self) -> str:
        """Kind, config, weights, dtype and device."""
        return f"{_weights(self.potential())} {self.dtype} {self.device}"

    def provenance(self) -> dict[str, str]:
        """Kind, size, licence, and what the run directories say of data, seed, revision and versions."""
        potential = self.potential()
        names = [] if isinstance(self.model, Potential) else [self.model] if isinstance(self.model, str) else self.model
        told = {
            "model": ", ".join(names) or "a potential in memory",
            "kind": potential.kind,
            "parameters": f"{sum(p.numel() for p in potential.parameters()):,}",
            "cutoff": f"{potential.cutoff:g} Å",
            "licence": potential.licence,
            "weights (SHA-256)": _weights(potential).split()[-1],
        }
        for name in names:
            facts = _of_run(Path(name)) if Path(name).exists() else {}
            told |= {(f"{key} of {name}" if len(names) > 1 else key): value for key, value in facts.items()}
        return told

    def fitted_to(self) -> TrainingData | None:
        """Training data of the model, or of all members."""
        return self.potential().training_data

    def unseen(self, numbers: Iterable[int]) -> set[int]:
        """Elements that no training frame of the model, or of one of its members, contains."""
        return self.potential().unseen(numbers)


@dataclass(frozen=True)
class Foreign(Column):
    """Any other ASE calculator, or DFT itself.

    Attributes:
        calculator_class: where its class is, such as `ase.calculators.lj.LennardJones` or `gpaw.GPAW`, or a function
            that returns one.
        settings: its arguments; objects are written as `class_path` and `init_args`.
    """

    calculator_class: str
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check that a command may build the calculator and the objects in its settings."""
        check_classes(self.calculator_class, self.settings)

    def calculator(self) -> BaseCalculator:
        """Build it.

        Raises:
            InputError: there is no such class, or what it needs is not installed.
        """
        made: BaseCalculator = build(self.calculator_class, self.settings)
        return made

    def identity(self) -> str:
        """Class, version of its package, settings, and the contents of files that they name.

        Raises:
            InputError: there is no such class, it does not take the settings, or what it needs is not installed.
        """
        Calculated(self.calculator_class, self.settings).check()
        settings = json.dumps(_hashed(self.settings), sort_keys=True, default=str)
        return f"{self.calculator_class} {_code(self.calculator_class)} {settings}"

    def provenance(self) -> dict[str, str]:
        """Class, package and settings."""
        settings = json.dumps(self.settings, sort_keys=True, default=str)
        return {"kind": self.calculator_class, "code": _code(self.calculator_class), "settings": settings}


@dataclass(frozen=True, eq=False)
class Instance(Column):
    """A calculator that has been made already, for use from Python; it must be picklable.

    Attributes:
        made: the calculator.
    """

    made: BaseCalculator

    def calculator(self) -> BaseCalculator:
        """It itself."""
        return self.made

    def identity(self) -> str:
        """Its class and parameters, or its weights."""
        if isinstance(self.made, PotentialCalculator):
            return _weights(self.made.potential)
        try:
            content = pickle.dumps(self.made)  # that is how it gets to where it is used
        except (pickle.PicklingError, TypeError, AttributeError) as error:
            name = type(self.made).__name__
            raise InputError(
                f"{name} cannot be sent to another process ({error}); give Foreign('module.{name}', settings)"
            ) from error
        kind = f"{type(self.made).__module__}.{type(self.made).__qualname__}"
        parameters = getattr(self.made, "parameters", None)  # use changes the rest of a calculator, but not these
        if not isinstance(parameters, Mapping):
            return f"{kind} {hashlib.sha256(content).hexdigest()}"
        return f"{kind} {_code(kind)} {json.dumps(dict(parameters), sort_keys=True, default=repr)}"

    def provenance(self) -> dict[str, str]:
        """Its class and parameters."""
        return {"kind": type(self.made).__name__, "parameters": str(getattr(self.made, "parameters", ""))}


@dataclass(frozen=True)
class Labels(Column):
    """DFT, from what has been computed: it answers for structures of these files only.

    Attributes:
        files: labelled structures: files, folders, or glob patterns.
        method: what made the labels, for the report.
    """

    files: str | list[str]
    method: str = ""

    def calculator(self) -> Recorded:
        """See `Recorded`."""
        return Recorded(read(self.files))

    def identity(self) -> str:
        """The hash of structures and labels."""
        return f"labels {data_hash(read(self.files))}"

    def provenance(self) -> dict[str, str]:
        """Files, number of frames, the hash of the data, and what the frames say of their making."""
        frames = read(self.files)
        codes = sorted({str(frame.atoms.info["label_code"]) for frame in frames if "label_code" in frame.atoms.info})
        names = self.files if isinstance(self.files, str) else ", ".join(self.files)
        told = {"kind": "recorded labels", "files": names, "frames": f"{len(frames):,}", "code": ", ".join(codes)}
        return {**told, "method": self.method, "data (SHA-256)": data_hash(frames)[:16]}


Given = str | os.PathLike[str] | Sequence[str] | Potential | BaseCalculator | Column


def column(given: Given) -> Column:
    """The column of a model name, a list of them (a committee), a potential, a calculator; a column stays as it is."""
    if isinstance(given, Column):
        return given
    if isinstance(given, BaseCalculator):
        return Instance(given)
    if isinstance(given, str | os.PathLike):
        return Model(os.fspath(given))
    return Model(given if isinstance(given, Potential) else list(given))


def _hashed(value: Any) -> Any:
    """Settings with the contents of files and directories in place of their names."""
    if isinstance(value, Mapping):
        return {key: _hashed(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_hashed(item) for item in value]
    if not isinstance(value, str | os.PathLike) or not Path(value).exists():
        return value
    files = [Path(value)] if Path(value).is_file() else sorted(p for p in Path(value).rglob("*") if p.is_file())
    return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


def _code(path: str) -> str:
    """Package and version of a class, or the hash of its source where it is of no package."""
    code = Calculated(path).code()
    if " " in code:
        return code
    source = inspect.getsourcefile(importlib.import_module(path.rpartition(".")[0]))
    return f"{code} {hashlib.sha256(Path(source).read_bytes()).hexdigest()[:16]}" if source else code


def _foundation(directory: Path) -> str:
    """The potential that a run started from, as its config says."""
    try:
        config = yaml.safe_load((directory / "config.yaml").read_text())
        given = config["model"]["potential"]
    except (FileNotFoundError, yaml.YAMLError, KeyError, TypeError):
        return ""
    return given if isinstance(given, str) else str(given.get("class_path", "")).rpartition(".")[2]


def _weights(potential: Potential) -> str:
    digest = hashlib.sha256(json.dumps(potential.config(), sort_keys=True, default=str).encode())
    for name, value in sorted(potential.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return f"{potential.kind} {digest.hexdigest()[:16]}"


def _of_run(place: Path) -> dict[str, str]:
    """What the run directory of a model says of how it was made."""
    directory = place if place.is_dir() else place.parent
    try:
        content: Mapping[str, Any] = json.loads((directory / "provenance.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    data, versions = content.get("data", {}), content.get("versions", {})
    return {
        "foundation": _foundation(directory),
        "foundation's licence": str(content.get("foundation_licence", "")),
        "data (SHA-256)": str(data.get("sha256", ""))[:16],
        "frames": f"{data.get('train', '?')} train, {data.get('valid', '?')} valid",
        "seed": str(content.get("seed", "")),
        "revision": str(content.get("git", "")),
        "versions": ", ".join(f"{name} {version}" for name, version in versions.items()),
        "command": "finetune " + " ".join(map(str, content.get("command", []))),
    }
