"""Linear potentials solved for instead of trained: ridge regression on energies, forces and stress, in one pass.

The rows of the design matrix are added to normal equations batch by batch, so memory does not grow with the data. What
is minimised is the mean-squares loss of `finetune.loss` over all training frames, plus a ridge:

    L(w) = sum_t weight_t mean_t(((X w - y) / scale_t)²) + lambda sum_c ((1 + degree_c)^p w_c s_c)²

with s_c the norm of column c in the first term. Reference energies of the elements are part of w, without a ridge.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from finetune.adapting import Shifted
from finetune.data.batching import Batch
from finetune.errors import InputError
from finetune.loss import SCALE, Loss
from finetune.potential import LinearPotential
from finetune.properties import Properties

TERMS = ("energy", "forces", "stress")
STRENGTHS = np.logspace(-14, 0, 57)
"""Ridges that are tried, over the largest eigenvalue of the normal equations."""


@dataclass(frozen=True)
class ClosedForm:
    """How the coefficients of a linear potential are solved for.

    Attributes:
        ridge: `validation` takes the strength with the lowest loss on the validation frames, `evidence` the one under
            which the training labels are most probable (MacKay, 10.1162/neco.1992.4.3.415), a number is the strength
            itself, over the largest eigenvalue.
        smoothness: power p of (1 + degree) in the ridge: how much more the finer functions are held back.
    """

    ridge: Literal["validation", "evidence"] | float = "validation"
    smoothness: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if isinstance(self.ridge, str):
            if self.ridge not in ("validation", "evidence"):
                raise InputError(f"the ridge is {self.ridge!r}; give validation, evidence or a number")
        elif not (math.isfinite(self.ridge) and self.ridge >= 0):
            raise InputError(f"the ridge is {self.ridge}; give 0 or more, or validation or evidence")
        if not (math.isfinite(self.smoothness) and self.smoothness >= 0):
            raise InputError(f"the smoothness is {self.smoothness}; give 0 or more")


def check_linear(potential: Shifted) -> LinearPotential:
    """The linear potential underneath.

    Raises:
        InputError: it is not one.
    """
    if not isinstance(potential.potential, LinearPotential):
        raise InputError(f"{potential.kind} is not linear and cannot be solved for; leave --model.solve out")
    return potential.potential


class NormalEquations:
    """X'X, X'y and y'y of each term of the loss; the last columns count the atoms of each element.

    Args:
        potential: whose coefficients the first columns belong to; they are set to 0, so that what it says is the rest.
    """

    def __init__(self, potential: Shifted) -> None:
        self.potential, self.linear = potential, check_linear(potential)
        self.elements = torch.tensor(sorted(potential.elements))
        self.degrees = self.linear.smoothness()
        size = len(self.degrees) + len(self.elements)
        self.linear.set_coefficients(torch.zeros(len(self.degrees), dtype=torch.float64))
        self.square = {term: torch.zeros(size, size, dtype=torch.float64) for term in TERMS}
        self.right = {term: torch.zeros(size, dtype=torch.float64) for term in TERMS}
        self.labels = dict.fromkeys(TERMS, 0.0)
        self.counts = dict.fromkeys(TERMS, 0)

    def add(self, batch: Batch) -> None:
        """Add the rows of a batch: energies per atom, force and stress components whose labels are known."""
        rest: Properties = self.potential(batch.graph).detach().to("cpu")
        design = self.linear.design(batch.graph)
        n = batch.n_atoms.double().cpu()
        hits = (batch.graph["numbers"].cpu()[:, None] == self.elements).double()
        atoms = hits.new_zeros(len(n), len(self.elements)).index_add(0, batch.graph["batch"].cpu(), hits)
        energy = torch.cat([design.energy.cpu(), atoms], dim=1) / n[:, None]
        self._add("energy", energy, (batch.labels.energy.cpu() - rest.energy) / n)
        self._add("forces", design.forces.cpu().flatten(0, 1), (batch.labels.forces.cpu() - rest.forces).flatten())
        self._add("stress", design.stress.cpu().flatten(0, 2), (batch.labels.stress.cpu() - rest.stress).flatten())

    def _add(self, term: str, rows: Tensor, labels: Tensor) -> None:
        known = labels.isfinite()
        if term == "stress":  # of a structure without a volume there is none
            known &= rows.isfinite().all(dim=1)
        rows, labels = rows[known], labels[known].double()
        if not rows.isfinite().all():
            raise InputError(f"functions of some frame are not finite ({term}); check the settings of the potential")
        width = rows.shape[1]
        self.square[term][:width, :width].addmm_(rows.T, rows)
        self.right[term][:width].addmv_(rows.T, labels)
        self.labels[term] += float(labels @ labels)
        self.counts[term] += len(labels)

    def known(self, loss: Loss) -> int:
        """Number of labels of the terms that the loss weights."""
        return sum(self.counts[term] for term in TERMS if loss.weights[term])

    def weighted(self, loss: Loss) -> tuple[Tensor, Tensor, float]:
        """Of the whole loss: square, right side, and its value at zero coefficients."""
        factors = {t: loss.weights[t] / SCALE[t] ** 2 / max(self.counts[t], 1) for t in TERMS}
        square = torch.stack([factors[t] * self.square[t] for t in TERMS]).sum(dim=0)
        right = torch.stack([factors[t] * self.right[t] for t in TERMS]).sum(dim=0)
        return square, right, sum(factors[t] * self.labels[t] for t in TERMS)


@dataclass(frozen=True)
class Solution:
    """What a closed-form fit found.

    Attributes:
        coefficients: of the potential.
        scale: (1 + degree)^p times the norm of its column, for each coefficient.
        references: energy in eV to add for each atomic number.
        strength: the ridge over the largest eigenvalue.
        parameters: effective number of coefficients, those that the data determine.
        scan: strength and loss on training and validation frames.
        chosen_by: validation, evidence, or hand.
    """

    coefficients: Tensor
    scale: Tensor
    references: Mapping[int, float]
    strength: float
    parameters: float
    scan: list[tuple[float, float, float]] = field(repr=False)
    chosen_by: str = "validation"

    def message(self) -> str:
        """What a user wants to know of it."""
        edge = " (the strongest that was tried: is something wrong with the labels?)" if self.strength >= 1 else ""
        return (
            f"solved for {len(self.coefficients)} coefficients, of which the data determine {self.parameters:.0f}; "
            f"ridge by {self.chosen_by}: {self.strength:.1e} of the largest eigenvalue{edge}"
        )


def solve(train: NormalEquations, valid: NormalEquations | None, loss: Loss, settings: ClosedForm) -> Solution:
    """Minimise the loss plus ridge; the reference energies are eliminated first.

    Raises:
        InputError: no rows, or no validation rows where the ridge is chosen by them.
    """
    if not train.known(loss):
        raise InputError("no training frame has a label that the loss weights; nothing can be solved for")
    square, right, at_zero = train.weighted(loss)
    c = len(train.degrees)
    scale = square.diagonal()[:c].clamp(min=0).sqrt()
    scale = torch.where(scale > 0, scale, 1.0) * (1 + train.degrees) ** settings.smoothness
    inverse = torch.linalg.pinv(square[c:, c:], hermitian=True)
    reduced = (square[:c, :c] - square[:c, c:] @ inverse @ square[c:, :c]) / scale[:, None] / scale
    aim = (right[:c] - square[:c, c:] @ inverse @ right[c:]) / scale
    values, vectors = torch.linalg.eigh(reduced)
    # what is below round-off is not determined at all
    values = torch.where(values > c * torch.finfo(values.dtype).eps * values[-1], values, 0.0)
    components = torch.where(values > 0, vectors.T @ aim, 0.0)
    ridges = STRENGTHS if isinstance(settings.ridge, str) else np.array([settings.ridge])
    damped = values[:, None] + torch.from_numpy(ridges) * values[-1]
    damped = torch.where(damped > 0, damped, math.inf)
    scaled = vectors @ (components[:, None] / damped)  # a column for each ridge
    coefficients = scaled / scale[:, None]
    full = torch.cat([coefficients, inverse @ (right[c:, None] - square[c:, :c] @ coefficients)])
    losses = _losses(full, square, right, at_zero)
    seen = valid is not None and valid.known(loss) > 0
    beyond = _losses(full, *valid.weighted(loss)) if seen and valid else torch.full_like(losses, torch.nan)
    if settings.ridge == "evidence":
        losses = losses.clamp(min=torch.finfo(losses.dtype).eps * at_zero)
        score = _minus_log_evidence(losses, scaled, values, ridges, train.known(loss))
    elif settings.ridge == "validation":
        if not seen:
            raise InputError("no labelled validation frame to choose the ridge by; give --model.solve.ridge evidence")
        score = beyond
    else:
        score = losses
    best = int(score.argmin())
    parameters = float((values / damped[:, best]).sum())
    references = {int(z): float(e) for z, e in zip(train.elements, full[c:, best], strict=True)}
    chosen_by = settings.ridge if isinstance(settings.ridge, str) else "hand"
    scan = [(float(a), float(b), float(d)) for a, b, d in zip(ridges, losses, beyond, strict=True)]
    return Solution(coefficients[:, best], scale, references, float(ridges[best]), parameters, scan, chosen_by)


def _losses(w: Tensor, square: Tensor, right: Tensor, at_zero: float) -> Tensor:
    """The loss, without its ridge, of each column of coefficients."""
    return torch.einsum("ck,ck->k", w, square @ w) - 2 * right @ w + at_zero


def _minus_log_evidence(losses: Tensor, scaled: Tensor, values: Tensor, ridges: np.ndarray, rows: int) -> Tensor:
    """Minus the logarithm of the probability of the labels, up to a constant, with the noise at its most probable.

    The variance of the noise of a term is taken to go with scale² · labels / weight, as the loss has it.

    Args:
        losses: weighted mean squares, without ridge.
        scaled: coefficients in the units of the ridge, a column for each.
        values: eigenvalues of the normal equations.
        ridges: strengths over the largest eigenvalue.
        rows: number of labels.
    """
    strength = torch.from_numpy(ridges) * values[-1]
    cost = losses + strength * scaled.square().sum(dim=0)
    volume = (torch.log(values[:, None] + strength) - torch.log(strength)).sum(dim=0)
    return rows / 2 * torch.log(cost) + volume / 2


def gather(potential: Shifted, batches: Iterable[Batch]) -> NormalEquations:
    """The normal equations of batches; their coefficients are 0 from then on."""
    equations = NormalEquations(potential)
    for batch in batches:
        equations.add(batch)
    return equations


def take_up(potential: Shifted, solution: Solution) -> None:
    """Give a potential the coefficients and reference energies of a solution."""
    check_linear(potential).set_coefficients(solution.coefficients, solution.scale)
    potential.add(solution.references)
