"""Transport: diffusivity of an element and its activation energy, with confidence intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from finetune.comparison.diffusion import Diffusivity, estimate_diffusivity
from finetune.comparison.displacements import unwrap
from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, starts
from finetune.comparison.runs import frames_of, steps_between
from finetune.md import Langevin, NoseHoover, Stage

FEWEST = 3  # temperatures with a diffusivity that an activation energy needs
DRAWS = 4000  # of the activation energy's distribution


@dataclass(frozen=True, kw_only=True)
class Transport(Observable):
    """Self-diffusion coefficient of an element at several temperatures, and the activation energy.

    The diffusive regime is found from the data and the coefficient is fitted there with kinisi's covariance of the mean
    squared displacement (`finetune.comparison.diffusion.estimate_diffusivity`); intervals are 95 %. Where there is no
    such regime, or atoms diffuse by less than a hop, the figure has no value but an upper bound at 95 % confidence, and
    the temperature stays out of the activation energy, which needs three. The mean displacement of all other elements
    is subtracted as drift; in an element, that of the centre of mass.

    Attributes:
        structures: the file to start from (its first frame).
        element: what diffuses.
        temperatures_K: of the runs; three or more with a diffusivity give an activation energy.
        repeat: supercell.
        ps: length of a run, ps, after `settle_ps`.
        settle_ps: time before, with a strong thermostat, ps.
        timestep_fs: time step, fs.
        every_fs: time between two frames that count, fs.
        hop: shortest distance between two sites, Å; atoms must diffuse farther than this in the run.
        seed: of momenta and noise.
    """

    heading: ClassVar[str] = "Transport"
    about: ClassVar[str] = (
        "Self-diffusion of one element in dynamics, from the mean squared displacement in the diffusive regime with "
        "its covariance (kinisi); intervals of 95 %. Without a diffusive regime, an upper bound stands "
        "in place of a value."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {"activation energy": Tolerance(0.05)}
    revision: ClassVar[int] = 2
    packages: ClassVar[Sequence[str]] = ("kinisi",)

    structures: Sequence[str]
    element: str
    temperatures_K: Sequence[float] = (600.0, 750.0, 900.0)
    repeat: Sequence[int] = (1, 1, 1)
    ps: float = 10.0
    settle_ps: float = 1.0
    timestep_fs: float = 2.0
    every_fs: float = 20.0
    hop: float = 2.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Run at each temperature, and fit."""
        start = starts(self.structures)[0][1].repeat(tuple(self.repeat))
        figures, curves, draws, notes = [], [], {}, []
        apart_ps = steps_between(self.every_fs, self.timestep_fs) * self.timestep_fs / 1000
        for temperature in self.temperatures_K:
            frames = self._run(start, calculator, temperature, place / f"{temperature:g}")
            found = estimate_diffusivity(unwrap(frames, self.element), apart_ps, self.hop, self.seed)
            subject = f"{self.element}, {temperature:g} K"
            figures.append(_figure(subject, found))
            band = (found.squares - found.errors).tolist(), (found.squares + found.errors).tolist()
            labels = ("time, ps", "mean squared displacement, Å²")
            panel = f"{temperature:g} K"
            curves.append(Curve(panel, found.lags_ps.tolist(), found.squares.tolist(), *labels, "line", *band))
            notes.append(f"{subject}: {describe(found)}")
            if not found.reason:
                draws[temperature] = found.draws
        if len(self.temperatures_K) > 1 and len(draws) < FEWEST:
            count = f"{len(draws)} of {len(self.temperatures_K)} temperatures have a diffusivity"
            notes.append(f"{self.element}: no activation energy, as {count} and {FEWEST} are needed")
        return Measured(figures + activation(draws, self.seed), curves, notes)

    def _run(self, start: Atoms, calculator: BaseCalculator, temperature: float, place: Path) -> list[Atoms]:
        """Frames of a run after it has settled."""
        stages = [
            Stage(Langevin(temperature_K=temperature, timestep_fs=self.timestep_fs), ps=self.settle_ps),
            Stage(NoseHoover(temperature_K=temperature, timestep_fs=self.timestep_fs), ps=self.ps),
        ]
        every = steps_between(self.every_fs, self.timestep_fs)
        frames = frames_of(start, calculator, stages, place, every, self.seed)
        return frames[round(1000 * self.settle_ps / (every * self.timestep_fs)) :]


def describe(found: Diffusivity) -> str:
    """Return where the diffusive regime begins, or the bound and its reason, in a line."""
    if not found.reason:
        return f"diffusive from {found.start_ps:.3g} ps"
    if math.isinf(found.high):
        return f"no diffusivity and no bound: {found.reason}"
    return f"no diffusivity, below {found.high:.2g} Å²/ps: {found.reason}"


def _figure(subject: str, found: Diffusivity) -> Figure:
    """The diffusivity with its interval; a bound has no value, 0 and the bound."""
    high = found.high if math.isfinite(found.high) else None
    return Figure(subject, "diffusivity", found.value, "Å²/ps", found.low if high is not None else None, high)


def activation(draws: Mapping[float, np.ndarray], seed: int) -> list[Figure]:
    """Return the activation energy, eV, with its 95 % interval: the slope of ln D against -1/kT.

    Args:
        draws: of the diffusivity, Å²/ps, by temperature, K. Nothing is returned for fewer than three temperatures.
        seed: of the combinations of draws.
    """
    if len(draws) < FEWEST:
        return []
    rng = np.random.default_rng(seed)
    picked = np.array([rng.choice(np.log(values[values > 0]), DRAWS) for values in draws.values()])
    slopes = -np.polyfit([1 / (units.kB * t) for t in draws], picked, 1)[0]
    low, middle, high = np.percentile(slopes, [2.5, 50, 97.5])
    return [Figure("", "activation energy", float(middle), "eV", float(low), float(high))]
