"""The potentials that the contract is tried on, and how tests use them."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from ase import Atoms

from finetune import models
from finetune.adapting import Shifted, group_of
from finetune.committee import Committee
from finetune.data.frames import Frame
from finetune.graph import Graph
from finetune.potential import Potential
from finetune.properties import Properties
from finetune.uncertainty import Graded, active_sets, calibrate

from .structures import ROOT, frames, sulphide

FOUNDATIONS = ("chgnet:0.3.0", "mace:mini")
REFERENCES = {3: -1.5, 15: 0.75, 16: 2.25}
VARIANTS = tuple(f"{name} ({word})" for name in models.backbones() for word in models.backbone(name).variants())
WRAPPED = ("committee", "graded committee", "calibrated graded ace", *(f"graded {name}" for name in models.backbones()))
KEPT = (*models.backbones(), *(f"shifted {name}" for name in models.backbones()), *FOUNDATIONS, *VARIANTS, *WRAPPED)


@functools.cache
def built(name: str) -> Potential:
    """A potential in evaluation mode by its name in `KEPT`, optionally `... float32`."""
    name, single, _ = name.partition(" float32")
    torch.manual_seed(0)
    if name in FOUNDATIONS:
        potential = models.load(name)
    elif name.startswith("graded "):
        potential = built.__wrapped__(name.removeprefix("graded "))
        potential = Graded(potential, active_sets(potential, frames()[::6]))
    elif name.startswith("calibrated "):
        blank = [Frame(a, {"forces": np.zeros((len(a), 3))}, "", k, "", str(k)) for k, a in enumerate(frames()[::6])]
        potential = calibrate(built.__wrapped__(name.removeprefix("calibrated ")), blank)
    elif name == "committee":
        potential = Committee([strengthened(models.backbone(family).tiny()) for family in models.backbones()])
    elif name in VARIANTS:
        family, word = name.removesuffix(")").split(" (")
        potential = strengthened(models.backbone(family).variants()[word])
    else:
        potential = strengthened(models.backbone(name.removeprefix("shifted ")).tiny())
    if name.startswith("shifted"):
        potential = Shifted(potential, REFERENCES)
    return potential.to(torch.float32 if single else torch.float64).eval()


def strengthened(potential: Potential) -> Potential:
    """Random weights scaled up until the forces in Li2S are those of a real solid, so that no test passes on zeros."""
    graph = potential.collate([potential.graph(sulphide())])
    while predict_graph(potential, graph).forces.square().mean().sqrt() < 0.3:
        with torch.no_grad():
            for name, parameter in potential.named_parameters():
                if group_of(potential, name) in ("interactions", "readouts"):
                    parameter.mul_(1.1)
    return potential


def needs_file(name: str) -> Any:
    """The name as a parameter; skipped while the file of its weights is not there."""
    missing = name.startswith("mace:mini") and not (ROOT / "finetune/foundations/mace-mini.pt").is_file()
    return pytest.param(name, marks=pytest.mark.skipif(missing, reason="mace:mini is not there yet"))


DOUBLE = [needs_file(name) for name in KEPT]
ALL = [*DOUBLE, *(needs_file(f"{name} float32") for name in FOUNDATIONS)]


def predict_graph(potential: Potential, graph: Graph) -> Properties:
    """Energy, forces and stress of a batched graph."""
    return potential(graph).detach()


def predict(potential: Potential, *atoms: Atoms) -> Properties:
    """Energy, forces and stress of structures, evaluated as one batch."""
    return predict_graph(potential, potential.collate([potential.graph(a) for a in atoms]))


def same(potential: Potential) -> str:
    """Name of the tolerance for numbers that are equal but for round-off."""
    return f"identity, {str(potential.dtype).removeprefix('torch.')}"
