"""Cost: time per atom and step of dynamics, and memory, at several sizes."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from ase import units
from ase.calculators.calculator import BaseCalculator
from ase.md.velocitydistribution import thermalize_momenta
from ase.md.verlet import VelocityVerlet

from finetune.comparison.figures import Curve, Figure, Measured
from finetune.comparison.observable import Observable, starts


@dataclass(frozen=True, kw_only=True)
class Cost(Observable):
    """Time per atom and step of dynamics, and peak memory per atom, of supercells of a structure.

    Attributes:
        structures: the file; its first frame is repeated.
        repeats: supercells.
        steps: steps that are timed, after two that are not; the median counts.
        temperature_K: of the dynamics.
        seed: of the momenta.
    """

    heading: ClassVar[str] = "Cost"
    about: ClassVar[str] = (
        "Median time of a step of dynamics at constant energy, with nothing else running that was started by this. "
        "Timings differ from run to run; all other figures do not."
    )
    alone: ClassVar[bool] = True

    structures: Sequence[str]
    repeats: Sequence[Sequence[int]] = ((1, 1, 1), (2, 1, 1), (2, 2, 1), (2, 2, 2))
    steps: int = 5
    temperature_K: float = 600.0
    seed: int = 0

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Time each size."""
        start = starts(self.structures)[0][1]
        figures, sizes, costs = [], [], []
        before = _peak_MB()
        for repeat in self.repeats:
            atoms = start.repeat(tuple(repeat))
            atoms.calc = calculator
            thermalize_momenta(atoms, self.temperature_K, rng=np.random.default_rng(self.seed))
            dynamics = VelocityVerlet(atoms, timestep=1.0 * units.fs)
            dynamics.run(2)
            times = []
            for _ in range(self.steps):
                begin = time.perf_counter()
                dynamics.run(1)
                times.append(time.perf_counter() - begin)
            cost = 1000 * float(np.median(times)) / len(atoms)
            figures.append(Figure(f"{len(atoms)} atoms", "time per atom and step", cost, "ms"))
            sizes.append(float(len(atoms)))
            costs.append(cost)
        memory = (_peak_MB() - before) / sizes[-1]
        figures.append(Figure(f"{sizes[-1]:.0f} atoms", "memory per atom beyond the start", memory, "MB"))
        device = getattr(getattr(calculator, "potential", None), "device", "cpu")
        threads = torch.get_num_threads()
        notes = [f"on {platform.node() or 'this machine'}, {device}, {threads} thread{'s' if threads > 1 else ''}"]
        labels = ("atoms", "time per atom and step, ms")
        return Measured(figures, [Curve("Time of a step", sizes, costs, *labels, style="both")], notes)

    def settings(self) -> dict[str, Any]:
        """Its own, the machine, and the threads."""
        return {**super().settings(), "machine": platform.node(), "threads": os.environ.get("OMP_NUM_THREADS", "1")}


def _peak_MB() -> float:
    """Largest memory of this process so far, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)
