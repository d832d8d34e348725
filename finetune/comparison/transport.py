"""Transport: diffusivity of an element and its activation energy, with confidence intervals."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator

from finetune.comparison.figures import Curve, Figure, Measured, Tolerance
from finetune.comparison.observable import Observable, starts
from finetune.comparison.runs import frames_of, steps_between
from finetune.md import Langevin, NoseHoover, Stage

POINTS = 60  # time differences of the mean squared displacement, up to half of the run
BALLISTIC = 0.05  # share of the run before which displacements are not diffusive
DRAWS = 4000  # of the activation energy's distribution


@dataclass(frozen=True, kw_only=True)
class Transport(Observable):
    """Self-diffusion coefficient of an element at several temperatures, by kinisi, and the activation energy.

    The mean squared displacement's covariance is taken into account (McCluskey et al., J. Chem. Theory Comput. 21, 79,
    2025); intervals are 95 %.

    Attributes:
        structures: the file to start from (its first frame).
        element: what diffuses.
        temperatures_K: of the runs; two or more give an activation energy.
        repeat: supercell.
        ps: length of a run, ps, after `settle_ps`.
        settle_ps: time before, with a strong thermostat, ps.
        timestep_fs: time step, fs.
        every_fs: time between two frames that count, fs.
        seed: of momenta and noise.
    """

    heading: ClassVar[str] = "Transport"
    about: ClassVar[str] = (
        "Self-diffusion of one element in dynamics, from the mean squared displacement with its covariance (kinisi); "
        "intervals of 95 %. Short runs give wide intervals: read them first."
    )
    usual: ClassVar[Mapping[str, Tolerance]] = {"activation energy": Tolerance(0.05)}
    packages: ClassVar[Sequence[str]] = ("kinisi",)

    structures: Sequence[str]
    element: str
    temperatures_K: Sequence[float] = (600.0, 750.0, 900.0)
    repeat: Sequence[int] = (1, 1, 1)
    ps: float = 10.0
    settle_ps: float = 1.0
    timestep_fs: float = 2.0
    every_fs: float = 20.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Run at each temperature, and fit."""
        start = starts(self.structures)[0][1].repeat(tuple(self.repeat))
        figures, curves, draws, notes = [], [], {}, []
        apart_ps = steps_between(self.every_fs, self.timestep_fs) * self.timestep_fs / 1000
        for temperature in self.temperatures_K:
            frames = self._run(start, calculator, temperature, place / f"{temperature:g}")
            times, squares, errors, samples = diffusion(frames, self.element, apart_ps, self.seed)
            low, middle, high = np.percentile(samples, [2.5, 50, 97.5])
            subject = f"{self.element}, {temperature:g} K"
            figures.append(Figure(subject, "diffusivity", float(middle), "Å²/ps", float(low), float(high)))
            band = (squares - errors).tolist(), (squares + errors).tolist()
            labels = ("time, ps", "mean squared displacement, Å²")
            curves.append(Curve(f"{temperature:g} K", times.tolist(), squares.tolist(), *labels, "line", *band))
            if squares[-1] < 3.0:
                notes.append(f"{subject}: displaced by {math.sqrt(squares[-1]):.1f} Å only; no diffusion to speak of")
            draws[temperature] = samples
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


def diffusion(
    frames: Sequence[Atoms], element: str, apart_ps: float, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Times (ps), mean squared displacements and their errors (Å²), and draws of the diffusivity (Å²/ps)."""
    import scipp
    from kinisi.analyze import DiffusionAnalyzer

    span = (len(frames) - 1) * apart_ps
    steps = np.unique(np.linspace(1, (len(frames) - 1) // 2, POINTS).round()) * apart_ps
    state = np.random.RandomState(seed)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        analyzer = DiffusionAnalyzer.from_ase(
            list(frames),
            specie=element,
            time_step=scipp.scalar(apart_ps, unit="ps"),
            step_skip=scipp.scalar(1),
            dt=scipp.array(dims=["time interval"], values=steps, unit="ps"),
            progress=False,
        )
        analyzer.diffusion(scipp.scalar(BALLISTIC * span, unit="ps"), progress=False, random_state=state)
    squares, errors = analyzer.msd.values, np.sqrt(analyzer.msd.variances)
    draws = scipp.to_unit(analyzer.D, "angstrom**2/ps").values
    return steps, squares, errors, np.asarray(draws)


def activation(draws: Mapping[float, np.ndarray], seed: int) -> list[Figure]:
    """Activation energy, eV, from draws of the diffusivity at two temperatures or more; slope of ln D against 1/kT."""
    if len(draws) < 2:
        return []
    rng = np.random.default_rng(seed)
    positive = [values[values > 0] for values in draws.values()]
    if not all(len(values) for values in positive):
        return []
    picked = np.array([rng.choice(np.log(values), DRAWS) for values in positive])
    slopes = -np.polyfit([1 / (units.kB * t) for t in draws], picked, 1)[0]
    low, middle, high = np.percentile(slopes, [2.5, 50, 97.5])
    return [Figure("", "activation energy", float(middle), "eV", float(low), float(high))]
