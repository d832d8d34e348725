"""Model names, and the one checkpoint format: what rebuilds a potential, and its weights.

A checkpoint is a dict with `potential` (`class_path` and plain `init_args`, nested for a potential made of potentials)
and `state_dict` (tensors), with a SHA-256 of its content (`checksum`). It is read with `weights_only=True`: nothing in
it is executed. Lightning's `.ckpt` of a run has both beside the state of the optimiser, so it is a model as well. The
entry `training`, where the potential was fitted, lists the elements with their numbers of training frames and atoms,
and the beginnings of the hashes of the training and validation structures (`finetune.provenance.TrainingData`).
"""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import pkgutil
import warnings
from pathlib import Path
from typing import Any

from torch import Tensor

from finetune.checksums import read_tensors, write_tensors
from finetune.committee import Committee
from finetune.errors import InputError, unknown
from finetune.potential import Potential
from finetune.provenance import TrainingData, of_directory

FORMAT = "finetune-1"
TRAINING = "training"  # entry of a checkpoint: what the potential was fitted to, see TrainingData.plain
BEST, LAST = "best.ckpt", "last.ckpt"
MEMBERS, GENERATIONS = "member-*.ckpt", "generation-*"  # what a campaign of active learning leaves
MEASURED = "errors.json"  # the last file that a generation's fit writes
LARGEST_SIZE = 10_000  # of layers, channels or functions that a checkpoint asks for
STRUCTURES = (".extxyz", ".xyz", ".traj", ".db", ".xml", ".cif", ".vasp")


def load(name: str | os.PathLike[str], trusted: bool = False) -> Potential:
    """The potential behind a model name, in evaluation mode, on the CPU.

    Args:
        name: `chgnet`, `chgnet:r2scan`, `mace:mini`, `mace:medium-mpa-0`, `mace:PATH.model`, a run directory (its best
            checkpoint), a directory of active learning (the committee of its last generation) or of one generation, a
            `.ckpt` of a run, or a single file written by `save`.
        trusted: a foreign `.model` is a pickle and runs code when read; true says that you trust the file.

    Raises:
        InputError: no such model, a damaged checkpoint, or a pickle that is not trusted.
    """
    text = os.fspath(name)
    path = Path(text)
    if path.is_dir():
        found = members(path)
        if len(found) > 1:
            return Committee([load(one) for one in found]).eval()
        path = found[0] if found else in_run(path)
    if path.is_file() and path.suffix != ".model":
        return restore(read_checkpoint(path), path)
    if path.suffix == ".model" and ":" not in text:
        text = f"mace:{text}"
    family, _, rest = text.partition(":")
    known = backbones()
    if family not in known:
        if os.sep in text or (path.suffix and ":" not in text):
            raise InputError(f"there is no model file or run directory {text}; check the path")
        named = [family for family in known if names(family)]
        raise unknown("model", text, [*named, *(f"{family}:{name}" for family in known for name in names(family))])
    return backbone(family).named(rest, trusted=trusted).eval()


def backbones() -> list[str]:
    """Names of the backbones: the files in `finetune/backbones`."""
    package = importlib.import_module("finetune.backbones")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_"))


def backbone(name: str) -> type[Potential]:
    """The `Potential` that the file of a backbone defines."""
    module = importlib.import_module(f"finetune.backbones.{name}")
    found = [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Potential) and value.__module__ == module.__name__
    ]
    return found[0]


def names(family: str) -> dict[str, str]:
    """Names of a backbone's foundation models, with their licences."""
    return backbone(family).names()


def save(potential: Potential, path: str | os.PathLike[str], **about: Any) -> None:
    """Write a potential as a single file, whole or not at all; `about` holds plain facts about it."""
    write_tensors({"format": FORMAT, **packed(potential), "about": about}, Path(path))


def packed(potential: Potential) -> dict[str, Any]:
    """Config, weights, licence and training data of a potential, as plain data."""
    weights = {key: value.detach().cpu() for key, value in potential.state_dict().items()}
    content = {"potential": potential.config(), "state_dict": weights, "licence": potential.licence}
    return content if potential.training_data is None else {**content, TRAINING: potential.training_data.plain()}


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The content of a checkpoint; nothing in it is executed.

    Raises:
        InputError: damaged (its checksums are verified), not plain, or not a checkpoint of this package.
    """
    if path.suffix in STRUCTURES:
        raise InputError(f"{path} is a file of structures, not a model; the model comes first, then the file")
    try:
        content = read_tensors(path)
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than plain weights and is not opened ({str(error).splitlines()[0]})"
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError, LookupError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise InputError(f"{path} is damaged or not a checkpoint ({reason}); take another") from error
    if not isinstance(content, dict) or not {"potential", "state_dict"} <= content.keys():
        raise InputError(f"{path} is not a checkpoint of this package; expected entries potential and state_dict")
    return content


def restore(content: dict[str, Any], path: Path) -> Potential:
    """The potential that a checkpoint holds, in evaluation mode."""
    potential = build(content["potential"])
    state: dict[str, Tensor] = content["state_dict"]
    licence = content.get("licence", potential.licence)
    if not isinstance(state, dict) or not isinstance(licence, str):
        raise InputError(f"{path} has weights or a licence that are not as written; take another checkpoint")
    if "pytorch-lightning_version" in content:  # a run's .ckpt: the potential is an attribute of the LightningModule
        state = {k.removeprefix("potential."): v for k, v in state.items() if k.startswith("potential.")}
    try:
        potential.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"the weights in {path} do not fit its own architecture: {error}") from error
    potential.training_data = _training_data(content, path)
    potential.licence, potential.pretrained = licence, True
    if "no commercial" in potential.licence:
        warnings.warn(f"{path} was tuned from a model under the {potential.licence}; so is it", stacklevel=2)
    return potential.eval()


def _training_data(content: dict[str, Any], path: Path) -> TrainingData | None:
    """Training data of a checkpoint; of one without them what the run directory lists, None where there is no list."""
    found = TrainingData.from_plain(content.get(TRAINING))
    return of_directory(path.parent) if found is None and path.suffix == ".ckpt" else found


def build(config: dict[str, Any]) -> Potential:
    """The potential of a `class_path` and `init_args`, nested ones first; only this package's classes are built."""
    if not isinstance(config, dict) or not {"class_path", "init_args"} <= config.keys():
        raise InputError("the checkpoint does not say how its potential is built; expected class_path and init_args")
    given = config["init_args"]
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise InputError("the checkpoint's init_args are no settings by name; take another checkpoint")
    if given.get("foundation") is not None or given.get("trusted"):
        raise InputError("the checkpoint wants to open another file; a checkpoint holds its own weights, do not use it")
    cls = _potential_class(str(config["class_path"]))
    _check_sizes(given)
    nested = {key: _built(value) for key, value in given.items()}
    try:
        return cls(**nested)
    except (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RuntimeError, MemoryError) as error:
        raise InputError(
            f"the checkpoint's {cls.__name__} cannot be built ({error}); it is of another version"
        ) from error


def _check_sizes(value: Any) -> None:
    """Refuse numbers of layers or functions that would take hours or all memory to build."""
    if isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            _check_sizes(part)
    elif isinstance(value, int) and abs(value) > LARGEST_SIZE:
        raise InputError(
            f"the checkpoint's settings hold the size {value}, expected at most {LARGEST_SIZE}; take another"
        )


def _built(value: Any) -> Any:
    """A value of `init_args`, with potentials in place of their configs."""
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return [_built(part) for part in value]
    return build(value) if isinstance(value, dict) and "class_path" in value else value


def _potential_class(path: str) -> type[Potential]:
    """The potential of this package that a `class_path` names; nothing else is imported for a checkpoint."""
    module, _, name = path.rpartition(".")
    wrappers = ("adapting", "committee", "uncertainty")
    allowed = {f"finetune.{name}" for name in (*wrappers, *(f"backbones.{family}" for family in backbones()))}
    cls = getattr(importlib.import_module(module), name, None) if module in allowed else None
    if not (isinstance(cls, type) and issubclass(cls, Potential)) or inspect.isabstract(cls):
        raise InputError(f"the checkpoint names {path}, which is not a potential of this package; it is not built")
    return cls


def members(directory: Path) -> list[Path]:
    """Checkpoints of the committee of a generation of active learning, or of a campaign's last one that is finished."""
    finished = sorted(place for place in directory.glob(GENERATIONS) if (place / MEASURED).is_file())
    return sorted((finished[-1] if finished else directory).glob(MEMBERS))


def in_run(directory: Path) -> Path:
    """The best checkpoint of a run directory, or the last one where there is no best."""
    for name in (BEST, LAST):
        if (directory / name).is_file():
            return directory / name
    raise InputError(f"{directory} holds no {BEST} or {LAST}; give the directory of a finished fit, or of a campaign")
