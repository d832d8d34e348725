"""The training loss: energy, forces, stress and magnetic moments, each masked where its label is not known.

Residuals are divided by `SCALE`, the error that a universal potential typically has before it is fine-tuned. So every
term is of order one at the start, weights say how many such errors a term counts, and one Huber threshold serves all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Literal

import torch
from torch import Tensor

from finetune.errors import InputError, unknown
from finetune.properties import Properties

SCALE: Mapping[str, float] = MappingProxyType({"energy": 0.03, "forces": 0.2, "stress": 0.004, "magmoms": 0.1})
"""Typical errors of a universal potential: eV/atom, eV/Å, eV/Å³, Bohr magnetons."""

KINDS = ("mse", "mae", "huber")


@dataclass(frozen=True)
class Stage:
    """Weights that hold from an epoch on; None keeps the weight that held before.

    Attributes:
        epoch: first epoch (counted from 0) of this stage.
        energy: weight of the energy term.
        forces: weight of the forces term.
        stress: weight of the stress term.
        magmoms: weight of the magnetic moments term.
    """

    epoch: int
    energy: float | None = None
    forces: float | None = None
    stress: float | None = None
    magmoms: float | None = None

    def weights(self) -> dict[str, float]:
        """The weights that this stage sets."""
        return {name: value for name, value in asdict(self).items() if name != "epoch" and value is not None}


@dataclass(frozen=True)
class Loss:
    """A weighted sum of the terms of energy per atom, forces, stress and magnetic moments.

    With r the residual over its scale (0.03 eV/atom, 0.2 eV/Å, 0.004 eV/Å³, 0.1 Bohr magnetons), a term is the mean
    over the known components of the batch of r² (mse), |r| (mae), or r²/2 below and delta (|r| - delta/2) above delta
    (huber).
    A weight of 1 for each lets one typical error of energy, forces and stress count alike.

    Attributes:
        kind: mse, mae or huber.
        energy: weight of the energy per atom.
        forces: weight of the force components.
        stress: weight of the nine stress components.
        magmoms: weight of the magnitudes of the magnetic moments.
        delta: Huber threshold in units of the scales: 1 is 0.03 eV/atom, 0.2 eV/Å, 0.004 eV/Å³.
        stages: other weights from later epochs on.
    """

    kind: Literal["mse", "mae", "huber"] = "huber"
    energy: float = 1.0
    forces: float = 1.0
    stress: float = 0.1
    magmoms: float = 0.0
    delta: float = 1.0
    stages: list[Stage] | None = None

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if self.kind not in KINDS:
            raise unknown("loss", str(self.kind), KINDS)
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise InputError(f"the Huber threshold delta is {self.delta}; give a number above 0")
        epochs = [stage.epoch for stage in self.stages or []]
        if epochs != sorted(set(epochs)) or min(epochs, default=0) < 0:
            raise InputError(f"the stages of the loss start at epochs {epochs}; give each its own, from 0 on, in order")
        self._check("at the start", self.weights)
        for stage in self.stages or []:
            self._check(f"from epoch {stage.epoch} on", self._weights_at(stage.epoch))

    @staticmethod
    def _check(when: str, weights: Mapping[str, float]) -> None:
        """Weights are not negative and not all zero."""
        for name, weight in weights.items():
            if weight is None or not (math.isfinite(weight) and weight >= 0):
                raise InputError(f"the loss weight of {name} {when} is {weight}; give 0 or more")
        if not any(weights.values()):
            raise InputError(f"all loss weights {when} are 0; give energy, forces or stress a weight")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each term."""
        return {name: getattr(self, name) for name in SCALE}

    def _weights_at(self, epoch: int) -> dict[str, float]:
        """Weight of each term in an epoch."""
        weights = self.weights
        for stage in self.stages or []:
            if stage.epoch <= epoch:
                weights |= stage.weights()
        return weights

    def at(self, epoch: int) -> Loss:
        """The loss with the weights that hold in an epoch (counted from 0), without stages."""
        w = self._weights_at(epoch)
        return Loss(self.kind, w["energy"], w["forces"], w["stress"], w["magmoms"], self.delta)

    def __call__(self, predicted: Properties, labels: Properties, n_atoms: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The total loss, and the terms before weighting; all dimensionless, each in the dtype of its prediction.

        A component whose label is NaN has no part in the mean and gives no gradient; a term without any label is 0.

        Args:
            predicted: what the potential says.
            labels: what DFT says, NaN where it says nothing.
            n_atoms: atoms of each structure, shape (structures).
        """
        n = n_atoms.to(predicted.energy)
        pairs = {
            "energy": (predicted.energy / n, labels.energy.to(predicted.energy) / n),
            "forces": (predicted.forces, labels.forces),
            "stress": (predicted.stress, labels.stress),
        }
        if predicted.magmoms is not None and labels.magmoms is not None:
            # a collinear moment has no preferred sign
            pairs["magmoms"] = (predicted.magmoms.abs(), labels.magmoms.abs())
        terms = {name: self._term(a, b, SCALE[name]) for name, (a, b) in pairs.items()}
        weighted = [self.weights[name] * term for name, term in terms.items() if self.weights[name]]
        total = torch.stack([0 * predicted.energy.sum(), *weighted]).sum()  # never without a gradient
        return total, {name: term.detach() for name, term in terms.items()}

    def _term(self, predicted: Tensor, label: Tensor, scale: float) -> Tensor:
        """Mean penalty over the known components.

        Both sides of an unknown component are replaced before any arithmetic: NaN times 0 is NaN, also in the gradient.
        """
        label = label.to(predicted)
        known = ~torch.isnan(label)
        zero = torch.zeros_like(predicted)
        r = (torch.where(known, predicted, zero) - torch.where(known, label, zero)) / scale
        return self._penalty(r).sum() / known.sum().clamp(min=1)

    def _penalty(self, r: Tensor) -> Tensor:
        """Penalty of each scaled residual."""
        if self.kind == "mse":
            return r.square()
        if self.kind == "mae":
            return r.abs()
        return torch.nn.functional.huber_loss(r, torch.zeros_like(r), reduction="none", delta=self.delta)
