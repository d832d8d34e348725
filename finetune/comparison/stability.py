"""Stability: many runs of dynamics with the guards on, and how long they last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from ase.calculators.calculator import BaseCalculator

from finetune.comparison.figures import FEWEST, Curve, Figure, Measured, Tolerance, binomial
from finetune.comparison.observable import Observable, starts
from finetune.comparison.verdicts import SAME, TOO_SHORT, Judged, Verdict, overall
from finetune.md import GUARDS, Guard, Langevin, Output, Stage, simulate

SHORTEST_PS = 0.2  # of a run that is worth a verdict: some vibrations


@dataclass(frozen=True, kw_only=True)
class Stability(Observable):
    """Runs of dynamics over structures, temperatures and seeds: share that ends as planned, time to failure, why.

    Start from structures that are at home at these temperatures: a frame of a melt heats a run at 300 K, and the guards
    say so.

    Attributes:
        structures: files; every frame is a start.
        temperatures_K: of the runs.
        seeds: number of runs of each structure and temperature.
        ps: length of a run, ps.
        timestep_fs: time step, fs.
        guards: what watches; null for those of `finetune md`.
        most: largest number of structures of each file, evenly spread.
    """

    heading: ClassVar[str] = "Stability of dynamics"
    about: ClassVar[str] = (
        "Runs at constant volume with the guards on. A run has failed when a guard stops it. The curve is the share "
        "of runs that still go on. The right share is 100 %: one failed run is certain, so it fails, whatever the "
        "interval; no failure in few runs proves little, which the 95 % interval (Clopper and Pearson) shows. "
        "Beside a reference that was run too, shares that differ by less than both intervals allow are not "
        "distinguishable. Fewer than five runs, or runs below 0.2 ps, without a failure give no verdict."
    )
    exact: ClassVar[str] = ""
    revision: ClassVar[int] = 3
    strict: ClassVar[Sequence[str]] = ("survived",)
    usual: ClassVar[Mapping[str, Tolerance]] = {"survived": Tolerance(5.0, target=100.0)}

    structures: Sequence[str]
    temperatures_K: Sequence[float] = (300.0, 600.0)
    seeds: int = 1
    ps: float = 1.0
    timestep_fs: float = 1.0
    guards: Sequence[Guard] | None = None
    most: int = 6

    def measure(self, calculator: BaseCalculator, place: Path) -> Measured:
        """Run all; a run that was cut off goes on."""
        ends: list[tuple[str, float, str]] = []
        for k, (group, start) in enumerate(starts(self.structures, self.most)):
            for temperature in self.temperatures_K:
                for seed in range(self.seeds):
                    atoms = start.copy()
                    atoms.calc = calculator
                    stage = Stage(Langevin(temperature_K=temperature, timestep_fs=self.timestep_fs), ps=self.ps)
                    folder = place / f"{k}-{temperature:g}-{seed}"
                    output = Output(every=max(1, stage.steps // 10), log_every=max(1, stage.steps // 10))
                    outcome = simulate(
                        atoms,
                        [stage],
                        folder,
                        guards=GUARDS if self.guards is None else self.guards,
                        output=output,
                        seed=seed,
                        progress=False,
                    )
                    name = f"{group}, {temperature:g} K" + (f", seed {seed}" if self.seeds > 1 else "")
                    ends.append((name, outcome.time_ps, "" if outcome.alarm is None else outcome.alarm.guard))
        return self._told(ends)

    def _told(self, ends: Sequence[tuple[str, float, str]]) -> Measured:
        """Share, times and reasons."""
        failed = [(name, time, guard) for name, time, guard in ends if guard]
        enough = failed or (len(ends) >= FEWEST and self.ps >= SHORTEST_PS)
        low, high = binomial(len(ends) - len(failed), len(ends))
        count = f"{len(ends)} run{'s' if len(ends) > 1 else ''} of {self.ps:g} ps, none fails"
        short = "" if enough else f"{count}; a verdict needs {FEWEST} runs of {SHORTEST_PS:g} ps"
        figures = [
            Figure("", "survived", 100 * (1 - len(failed) / len(ends)), "%", low, high, short=short),
            Figure("", "runs", float(len(ends))),
            Figure("", "time without a failure", float(sum(time for _, time, _ in ends)), "ps in all"),
        ]
        if failed:
            figures.append(Figure("", "first failure", min(time for _, time, _ in failed), "ps"))
        for guard in sorted({guard for *_, guard in failed}):
            figures.append(Figure(guard, "runs stopped", float(sum(g == guard for *_, g in failed))))
        times = sorted(time for _, time, _ in failed)
        x = [0.0, *times, self.ps]
        y = [1 - k / len(ends) for k in range(len(times) + 1)] + [1 - len(times) / len(ends)]
        labels = ("time, ps", "runs that go on, %")
        curve = Curve("Survival", x, [100 * v for v in y], *labels, style="steps", limits=(0.0, 105.0), whole=True)
        return Measured(figures, [curve], [f"{name}: {guard} after {time:.3f} ps" for name, time, guard in failed])

    def verdict(self, measured: Measured, judged: Sequence[Judged]) -> Verdict:
        """How many runs fail, of how long, at what temperatures."""
        share, runs = measured.figures[:2]
        of = int(runs.value)
        failed = of - round(share.value * of / 100)
        word = overall(judged).word
        long = f"{of} run{'s' if of > 1 else ''} of {self.ps:g} ps"
        kelvin = f"{', '.join(f'{t:g}' for t in self.temperatures_K)} K"
        if word == "told":
            return Verdict(word, TOO_SHORT, f"{share.short}; {kelvin}")
        brief = f"{failed or 'none'} of {long} {'fails' if failed < 2 else 'fail'}"
        brief = f"{SAME}: {brief}" if word == "same" else brief
        return Verdict(word, brief, f"{kelvin}; survival {share.low:.0f} to {share.high:.0f} % (95 %)")
