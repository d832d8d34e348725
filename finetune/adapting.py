"""What changes a foundation model before it is trained: reference energies, frozen groups, learning-rate factors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from finetune.errors import InputError, unknown
from finetune.graph import Graph
from finetune.potential import Exported, Potential
from finetune.properties import Properties
from finetune.wrapper import Wrapper

MAX_Z = 119


class Shifted(Wrapper):
    """A potential plus one reference energy for each atom of an element.

    Args:
        potential: the potential underneath.
        references: energy in eV for each atomic number; elements that are not named are not shifted.
    """

    references: Tensor

    def __init__(self, potential: Potential, references: Mapping[int, float] | None = None) -> None:
        super().__init__(potential)
        self.register_buffer("references", torch.zeros(MAX_Z, dtype=torch.float64))
        self.add(references or {})
        self.shifted = True

    def add(self, references: Mapping[int, float]) -> None:
        """Add to the reference energies, eV per atom by atomic number."""
        for number, energy in references.items():
            self.references[int(number)] += float(energy)

    def added(self, said: Properties, graph: Graph) -> Properties:
        """The energies said underneath with the reference energies, eV."""
        numbers, batch = (graph[key].to(self.device) for key in ("numbers", "batch"))
        energy, per_atom = self._shifted(said.energy, said.energies, numbers, batch)
        return replace(said, energy=energy, energies=per_atom)

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The energies underneath plus the reference energies, eV."""
        energy, per_atom, magmoms = self.potential.energies(graph)
        return *self._shifted(energy, per_atom, graph["numbers"], graph["batch"]), magmoms

    def _shifted(
        self, energy: Tensor, per_atom: Tensor | None, numbers: Tensor, batch: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Energies of structures and atoms with the reference energies."""
        shifts = self.references[numbers]
        energy = energy.index_add(0, batch, shifts.to(energy.dtype))
        return energy, None if per_atom is None else per_atom + shifts

    def bare(self) -> Shifted:
        """With the same reference energies around the bare potential."""
        inner = self.potential.bare()
        return (
            self if inner is self.potential else Shifted(inner, {z: float(self.references[z]) for z in self.elements})
        )

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args`, those of the potential underneath nested."""
        return {"class_path": "finetune.adapting.Shifted", "init_args": {"potential": self.potential.config()}}

    def export(self, format: str, path: Path, references: Mapping[int, float] | None = None) -> Exported | None:
        """The potential underneath with the reference energies."""
        given = references or {}
        return self.potential.export(
            format, path, {z: float(self.references[z]) + given.get(z, 0.0) for z in self.elements}
        )


def group_of(potential: Potential, name: str) -> str:
    """Name of the parameter group that a parameter belongs to; `other` where it is in none."""
    hits = [group for group, prefixes in potential.groups.items() if name.startswith(prefixes)]
    return hits[0] if hits else "other"


def parameter_groups(potential: Potential, rate: float, factors: Mapping[str, float]) -> list[dict[str, Any]]:
    """Parameters for an optimiser, one dict per group with its learning rate; a factor of 0 freezes the group.

    Raises:
        InputError: a group that the potential does not have, or a negative factor.
    """
    names = {*potential.groups, "other"}
    for group, factor in factors.items():
        if group not in names:
            raise unknown("parameter group", group, names)
        if factor < 0:
            raise InputError(f"the learning-rate factor of {group} is {factor}; give 0 (frozen) or more")
    members: dict[str, list[nn.Parameter]] = {}
    for name, parameter in potential.named_parameters():
        group = group_of(potential, name)
        if factors.get(group, 1.0) == 0:
            parameter.requires_grad_(False)
        if parameter.requires_grad:
            members.setdefault(group, []).append(parameter)
    if not members:
        raise InputError(
            f"all groups ({', '.join(sorted(names))}) are frozen, nothing is left to train; free one of them"
        )
    return [{"params": p, "lr": rate * factors.get(g, 1.0), "name": g} for g, p in members.items()]


def freeze_unused(potential: Potential, magmoms: bool) -> None:
    """Freeze parameters that no term of the loss depends on, so that DDP does not wait for their gradients."""
    unused = potential.idle if magmoms else (*potential.idle, *potential.only_magmoms)
    for name, parameter in potential.named_parameters():
        if name.startswith(unused or ("-",)):
            parameter.requires_grad_(False)
