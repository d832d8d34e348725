"""Cost: time per atom and step of dynamics, and memory, at several sizes."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import BaseCalculator
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from finetune.comparison.figures import Curve, Figure, Measured, interval
from finetune.comparison.observable import Observable, starts
from finetune.comparison.verdicts import Judged, Verdict, overall

AGAIN = 0.25  # share by which timings of the same model may differ between two processes
PAGES_MB = 5.0  # by which memory may, as it is taken in large pages


@dataclass(frozen=True, kw_only=True)
class Cost(Observable):
    """Time per atom and step of dynamics, and peak memory per atom, of supercells of a structure.

    Attributes:
        structures: the file; its first frame is repeated.
        repeats: supercells.
        steps: steps that are timed in a round, after two that are not; their median counts.
        rounds: rounds through all sizes; the mean over rounds and its interval are reported.
        temperature_K: of the dynamics.
        seed: of the momenta.
    """

    heading: ClassVar[str] = "Cost"
    about: ClassVar[str] = (
        "Time of a step of dynamics at constant energy, with nothing else running that was started by this: medians "
        "over some steps, and their mean and 95 % interval over rounds through all sizes. Two timings are not "
        "distinguishable where they differ by less than both intervals, or by less than a quarter, which the same "
        "model may show in two processes. There is no DFT in it, so there is no other verdict."
    )
    exact: ClassVar[str] = ""
    revision: ClassVar[int] = 2
    alone: ClassVar[bool] = True

    structures: Sequence[str]
    repeats: Sequence[Sequence[int]] = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))
    steps: int = 5
    rounds: int = 5
    temperature_K: float = 600.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Time each size."""
        start = starts(self.structures)[0][1]
        before = _peak_MB()
        sizes = [start.repeat(tuple(repeat)) for repeat in self.repeats]
        for atoms in sizes:
            atoms.calc = calculator
            thermalize_momenta(atoms, self.temperature_K, rng=np.random.default_rng(self.seed))
        rounds = np.array([[self._time_ms(atoms) / len(atoms) for atoms in sizes] for _ in range(self.rounds)])
        figures = [self._figure(len(atoms), times) for atoms, times in zip(sizes, rounds.T, strict=True)]
        counts, costs = [float(len(atoms)) for atoms in sizes], rounds.mean(axis=0).tolist()
        memory = (_peak_MB() - before) / counts[-1]
        floor = max(AGAIN * abs(memory), PAGES_MB / counts[-1])
        figures.append(Figure(f"{counts[-1]:.0f} atoms", "memory per atom beyond the start", memory, "MB", floor=floor))
        device = getattr(getattr(calculator, "potential", None), "device", "cpu")
        threads = torch.get_num_threads()
        notes = [f"on {platform.node() or 'this machine'}, {device}, {threads} thread{'s' if threads > 1 else ''}"]
        labels = ("atoms", "time per atom and step, ms")
        return Measured(figures, [Curve("Time of a step", counts, costs, *labels, style="both")], notes)

    def _time_ms(self, atoms: Atoms) -> float:
        """Median time of a step, ms."""
        dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
        dynamics.run(2)
        times = []
        for _ in range(self.steps):
            begin = time.perf_counter()
            dynamics.run(1)
            times.append(time.perf_counter() - begin)
        return 1000 * float(np.median(times))

    def _figure(self, count: int, times: np.ndarray) -> Figure:
        """Time per atom and step over rounds, with its floor for all sizes together."""
        band = interval(times) if len(times) > 1 else ()
        figure = Figure(f"{count} atoms", "time per atom and step", float(times.mean()), "ms", *band)
        return replace(figure, floor=max(AGAIN * figure.value, figure.margin(0.0, len(self.repeats))))

    def verdict(self, measured: Measured, judged: Sequence[Judged]) -> Verdict:
        """The time at the largest size over that of the reference."""
        verdict, largest = overall(judged), judged[len(self.repeats) - 1]
        if verdict.word != "told" or not largest.reference:
            return verdict
        return Verdict("told", f"{largest.figure.value / largest.reference:.2g}× the time", largest.figure.subject)

    def settings(self) -> dict[str, Any]:
        """Its own, the machine, and the threads."""
        return {**super().settings(), "machine": platform.node(), "threads": os.environ.get("OMP_NUM_THREADS", "1")}


def _peak_MB() -> float:
    """Largest memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
