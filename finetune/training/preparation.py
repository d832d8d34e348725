"""Reference energies before the first step, and descriptions of a fit."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from finetune.adapting import Shifted
from finetune.data.batching import Batch
from finetune.data.frames import Frame
from finetune.data.module import FrameData
from finetune.doctor import check_labels, not_compared
from finetune.errors import InputError
from finetune.evaluation import evaluate
from finetune.properties import Properties
from finetune.provenance import unseen_message
from finetune.references import References, fit_references

SETTINGS = 3  # differing settings that are named


def described_fit(config: dict[str, Any], other: dict[str, Any] | None = None) -> str:
    """Name of the potential that a config builds, innermost, with its settings that differ from those of another."""
    inner = innermost(config)
    name = str(inner["class_path"]).rpartition(".")[2]
    if other is None or innermost(other)["class_path"] != inner["class_path"]:
        return name
    mine, its = (_flat(part["init_args"]) for part in (inner, innermost(other)))
    differing = sorted(key for key in {*mine, *its} if mine.get(key) != its.get(key))
    differing.sort(key=lambda key: not (key in mine and key in its))
    if not differing:  # within wrappers that differ
        return name
    named = [f"{key} {mine[key]!s:.30}" if key in mine else f"the usual {key}" for key in differing[:SETTINGS]]
    more = f" and {len(differing) - SETTINGS} more" if len(differing) > SETTINGS else ""
    return f"{name} with {', '.join(named)}{more}"


def _flat(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Settings, with those of an architecture in its place."""
    inner = arguments.get("architecture")
    own = {key: value for key, value in arguments.items() if key != "architecture"}
    return own | dict(inner) if isinstance(inner, Mapping) else own


def group_names(groups: Sequence[Mapping[str, Any]]) -> str:
    """Names of the parameter groups of an optimiser, and whether it is one of the Adam family."""
    names = ", ".join(str(group.get("name", k)) for k, group in enumerate(groups))
    return f"{'Adam' if 'betas' in groups[0] else 'another optimiser'} on {names}"


def innermost(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the backbone within wrappers."""
    inner = config["init_args"].get("potential")
    return innermost(inner) if isinstance(inner, dict) else config


def refit_references(potential: Shifted, data: FrameData) -> References:
    """Fit the reference energies to labels minus predictions of the training frames, add them, and return them.

    Raises:
        InputError: the labels cannot belong to the structures, see `finetune.doctor.check_labels`.
    """
    frames = data.frames("train")
    untouched = evaluate(potential, frames, shift=True, batch_edges=data.batch_edges, graphs=data.graphs("train"))
    problems = check_labels(untouched) if potential.pretrained and data.units else []
    if not potential.pretrained:
        rank_zero_info(
            "units and signs of the labels are not checked for want of a model to compare with: finetune doctor"
        )
    if problems:
        raise InputError("; ".join(problems) + " (--data.units false trains all the same)")
    for words in not_compared(untouched).values() if potential.pretrained and data.units else []:
        rank_zero_info(words)
    difference = (untouched.labels.energy - untouched.predicted.energy).numpy()
    fitted = fit_references([frame.atoms.numbers for frame in frames], difference)
    potential.add(fitted.energies)
    others = [frame for part in ("valid", "test") if part in data.read for frame in data.frames(part)]
    strange = elements(others) - elements(frames)
    if strange:
        warnings.warn(unseen_message(strange), stacklevel=2)
    return fitted


def elements(frames: Sequence[Frame]) -> set[int]:
    """Atomic numbers that occur."""
    return {int(z) for frame in frames for z in frame.atoms.numbers}


def absolute_errors(predicted: Properties, batch: Batch) -> dict[str, tuple[Tensor, int]]:
    """Mean absolute error over the known components (0 if none), and their number: eV/atom, eV/Å, eV/Å³."""
    n = batch.n_atoms
    pairs = {
        "energy": ((predicted.energy - batch.labels.energy) / n),
        "forces": predicted.forces - batch.labels.forces,
        "stress": predicted.stress - batch.labels.stress,
    }
    known = {name: (error.detach(), int(torch.isfinite(error).sum())) for name, error in pairs.items()}
    return {name: (torch.nansum(error.abs()) / max(count, 1), count) for name, (error, count) in known.items()}
