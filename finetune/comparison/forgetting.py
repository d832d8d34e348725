"""Forgetting: how far a fine-tuned potential has moved from its foundation where it was not tuned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase.calculators.calculator import BaseCalculator

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance, interval
from finetune.comparison.observable import Observable, single_points
from finetune.comparison.verdicts import Judged, Verdict, overall
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.metrics import mae
from finetune.references import fit_references


@dataclass(frozen=True, kw_only=True)
class Forgetting(Observable):
    """Drift of forces and energies from the foundation model on structures outside the fine-tuning set.

    Attributes:
        files: a probe set: structures with the foundation's own labels.
        budget: largest mean drift of the forces, meV/Å, that passes.
    """

    heading: ClassVar[str] = "Forgetting"
    about: ClassVar[str] = (
        "Mean absolute difference from the foundation model on structures outside the fine-tuning set, labelled by the "
        "foundation itself. Some drift is what tuning is for; elements and phases that the data do not hold should "
        "move little. Energies after a shift per element. The budget is a convention. Intervals of 95 % are over the "
        "structures of a family (jackknife): what other structures of its kind may give. A drift whose interval holds "
        "the budget neither passes nor fails."
    )
    exact: ClassVar[str] = ""
    revision: ClassVar[int] = 2
    strict: ClassVar[Sequence[str]] = ("drift of forces",)
    usual: ClassVar[Mapping[str, Tolerance]] = {"drift of forces": Tolerance(100.0, target=0.0)}

    files: Sequence[str]
    budget: float = 100.0

    def limits(self) -> dict[str, Tolerance]:
        """The budget."""
        return {"drift of forces": Tolerance(self.budget, target=0.0), **(self.tolerances or {})}

    def verdict(self, measured: Measured, judged: Sequence[Judged]) -> Verdict:
        """The largest drift of a family beside the budget."""
        known = [one for one in judged if one.strict and not one.lacking]
        verdict = overall(judged)
        if not known:
            return verdict
        far = max(known, key=lambda one: one.figure.value)
        budget, figure = self.limits()["drift of forces"].absolute, far.figure
        brief, detail = f"{figure.value:.0f} of {budget:g} meV/Å", f"drift in {figure.subject}"
        if figure.low is not None and figure.high is not None:
            detail += f", {max(figure.low, 0):.0f} to {figure.high:.0f} (95 %)"
        sides = [one.figure.value - one.figure.margin(budget, len(known)) > budget for one in known]
        near = [abs(one.figure.value - budget) <= one.figure.margin(budget, len(known)) for one in known]
        undecided = verdict.word in ("within", "beyond") and any(near) and not any(sides)
        return Verdict("near" if undecided else verdict.word, brief, detail)

    def numbers(self) -> set[int]:
        """Empty: elements outside the training set are the purpose of a probe."""
        return set()

    def learnable(self) -> list[Frame]:
        """The probe."""
        return read(list(self.files))

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Drift over all, and per family of the probe."""
        frames = read(list(self.files))
        said = single_points([frame.atoms for frame in frames], calculator)
        pairs = [(frame, point) for frame, point in zip(frames, said, strict=True) if point is not None]
        families = sorted({frame.family for frame, _ in pairs})
        numbers = [frame.atoms.numbers for frame, _ in pairs]
        difference = np.array([float(point.energy[0] - frame.labels.energy[0]) for frame, point in pairs])
        shift = fit_references(numbers, difference)
        left = np.array([abs(d - shift.of(z)) / len(z) for d, z in zip(difference, numbers, strict=True)])
        figures, sizes, drifts = [], [], []
        for family in families:
            chosen = [k for k, (frame, _) in enumerate(pairs) if frame.family == family]
            forces = [(pairs[k][1].forces.numpy(), pairs[k][0].labels.forces.numpy()) for k in chosen]
            drift = 1000 * mae(*(np.concatenate(side) for side in zip(*forces, strict=True)))
            sums = np.array([[np.abs(own - wanted).sum(), wanted.size] for own, wanted in forces])
            band = _jackknife(1000 * sums[:, 0], sums[:, 1])
            figures.append(Figure(family, "drift of forces", float(drift), "meV/Å", *band))
            band = _jackknife(1000 * left[chosen], np.ones(len(chosen)))
            figures.append(Figure(family, "drift of energies", float(1000 * left[chosen].mean()), "meV/atom", *band))
            sizes += [float(np.linalg.norm(wanted, axis=1).mean()) for _, wanted in forces]
            drifts += [float(np.linalg.norm(own - wanted, axis=1).mean()) for own, wanted in forces]
        labels = ("mean force of the foundation, eV/Å", "mean difference, eV/Å")
        return Measured(figures, [Curve("Drift of forces by structure", sizes, drifts, *labels, style="points")])


def _jackknife(sums: np.ndarray, counts: np.ndarray) -> tuple[float, float, int] | tuple[()]:
    """95 % interval of a mean over structures that have unequal counts, by leaving each out; nothing for one structure.

    Args:
        sums: of each structure, shape (structures,).
        counts: terms in each sum, shape (structures,).
    """
    if len(sums) < 2 or not np.isfinite(sums).all():
        return ()
    without = (sums.sum() - sums) / (counts.sum() - counts)
    return interval(len(sums) * sums.sum() / counts.sum() - (len(sums) - 1) * without)
