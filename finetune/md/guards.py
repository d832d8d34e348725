"""Guards: each watches for one way in which dynamics go wrong, and warns, saves the frame, or stops the run.

A guard compares with the start of the run, so it says nothing about what was wrong from the beginning.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from ase import units
from ase.data import atomic_numbers, covalent_radii
from ase.neighborlist import neighbor_list

from finetune.errors import InputError
from finetune.md.snapshot import Snapshot

Action = Literal["warn", "save", "stop"]


REACTED = 1.25  # largest fall of the potential energy over that of the full reaction


@dataclass(frozen=True)
class Alarm:
    """What a guard found.

    Attributes:
        guard: its name.
        message: what, how much, and the threshold.
        atoms: indices of the atoms that are to blame; empty where it is all of them.
    """

    guard: str
    message: str
    atoms: list[int] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Guard(ABC):
    """Watches for one fault.

    Attributes:
        action: what happens when it is found: `warn`, `save` the frame (and warn), or `stop` the run.
        every: steps between two looks.
    """

    action: Action = "stop"
    every: int = 1

    def check_settings(self) -> None:
        """Raise `InputError` where a setting makes no sense."""
        if self.every < 1 or self.action not in get_args(Action):
            raise InputError(f"{self} cannot work; `every` is 1 or more, `action` is warn, save or stop")

    def reference(self, start: Snapshot) -> Any:
        """What is remembered of the start."""
        return None

    @abstractmethod
    def check(self, now: Snapshot, reference: Any) -> Alarm | None:
        """The fault, if there is one."""

    def blind(self, now: Snapshot) -> str | None:
        """What the guard would look at and the calculator does not give; None where it sees."""
        return None

    def caution(self, now: Snapshot) -> str | None:
        """Return a limitation of the guard in this run that its user should know; None where there is no such thing."""
        return None

    def alarm(self, message: str, atoms: Any = ()) -> Alarm:
        """An alarm of this guard."""
        return Alarm(type(self).__name__, message, [int(i) for i in atoms])

    def highest(self, now: Snapshot, values: np.ndarray | None, above: float, words: str) -> Alarm | None:
        """An alarm for the atoms whose value is above a limit, or no number, in words for the worst one."""
        high = np.zeros(0, dtype=int) if values is None else np.flatnonzero(~(values <= above))
        if values is None or not len(high):
            return None
        worst = int(high[values[high].argmax()])
        return self.alarm(
            f"{words.format(values[worst])} on {now.atoms.symbols[worst]} {worst} (limit {above:g})", high
        )


@dataclass(frozen=True, kw_only=True)
class TooHot(Guard):
    """The temperature is far above that of the thermostat, or of the beginning where there is none.

    Attributes:
        factor: how many times the temperature; six standard deviations of a canonical ensemble are added.
        floor_K: a lower temperature than this counts as this, K: a cold structure that relaxes gets warm.
    """

    factor: float = 2.0
    floor_K: float = 300.0

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """Compare; deviations are sqrt(2 / degrees of freedom) of the temperature."""
        limit = max(now.expected_K, self.floor_K) * (self.factor + 6 * np.sqrt(2 / now.degrees))
        if now.temperature_K <= limit:
            return None
        return self.alarm(f"{now.temperature_K:.0f} K where {now.expected_K:.0f} K is expected (limit {limit:.0f} K)")


@dataclass(frozen=True, kw_only=True)
class Energy(Guard):
    """The potential energy leaves that of the start, or the conserved energy drifts.

    A fall is a hole in the potential; a rise without heating is dynamics that explode.

    Attributes:
        change: largest change of the potential energy, eV/atom.
        reaction: energy of the full reaction, eV/atom, as `finetune phases` prints it (-0.7). The potential energy may
            then fall by 1.25 times as much, and `change` limits its rise only. Without it, the guard cannot tell a
            hole from a reaction: a hole of less than `change` passes, a reaction of more stops the run.
        drift: largest drift of the conserved energy, meV/atom/ps, judged after `after_ps`.
        after_ps: time before drift is judged, ps.
        drift_most: largest change of the conserved energy in all, eV/atom.
    """

    change: float = 1.0
    reaction: float | None = None
    drift: float = 20.0
    after_ps: float = 0.5
    drift_most: float = 0.5
    every: int = 10

    def check_settings(self) -> None:
        """The reaction releases energy."""
        super().check_settings()
        if self.reaction is not None and not self.reaction < 0:
            raise InputError(f"Energy: `reaction` is {self.reaction:g} eV/atom, expected below 0. Take it from phases.")

    def caution(self, now: Snapshot) -> str | None:
        """Without the energy of the reaction, a limit cannot be right for a structure of several elements."""
        if self.reaction is not None or len(set(now.atoms.numbers)) < 2:
            return None
        return (
            f"it stops at a change of {self.change:g} eV/atom. A reaction that releases more is stopped too, and a "
            "hole of less is not seen. Set `reaction`, eV/atom, as `finetune phases` prints it"
        )

    def reference(self, start: Snapshot) -> float:
        """Potential energy of the start, eV."""
        return float(start.atoms.get_potential_energy())

    def check(self, now: Snapshot, reference: float) -> Alarm | None:
        """Compare per atom."""
        n = len(now.atoms)
        change = (now.atoms.get_potential_energy() - reference) / n
        lowest = -self.change if self.reaction is None else REACTED * self.reaction
        if not lowest <= change <= self.change:
            limit, remedy = self.change, ""
            if change < 0:
                limit = lowest if self.reaction is not None else self.change
                remedy = "" if self.reaction is not None else "; where a reaction may do that, set `reaction`"
            return self.alarm(f"the potential energy has changed by {change:+.2f} eV/atom (limit {limit:.3g}{remedy})")
        if now.drift is None or now.stage_ps < self.after_ps:
            return None
        drift = 1000 * now.drift / n / now.stage_ps
        if abs(now.drift) / n > self.drift_most:
            return self.alarm(f"the conserved energy has changed by {now.drift / n:+.2f} eV/atom")
        if abs(drift) <= self.drift:
            return None
        return self.alarm(f"the conserved energy drifts by {drift:+.1f} meV/atom/ps (limit {self.drift:g})")


@dataclass(frozen=True, kw_only=True)
class Pressure(Guard):
    """The pressure is beyond what the simulation is for.

    Attributes:
        above_GPa: largest size of the pressure, GPa.
    """

    above_GPa: float = 20.0
    every: int = 10

    def blind(self, now: Snapshot) -> str | None:
        """Stress."""
        return "stress" if now.pressure_GPa is None else None

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """Compare; nothing is said where the calculator gives no stress."""
        pressure = now.pressure_GPa
        if pressure is None or abs(pressure) <= self.above_GPa:
            return None
        return self.alarm(f"the pressure is {pressure:.1f} GPa (limit {self.above_GPa:g})")


@dataclass(frozen=True, kw_only=True)
class TooClose(Guard):
    """Two atoms are much closer than a bond.

    Attributes:
        fraction: smallest distance over the sum of the covalent radii.
    """

    fraction: float = 0.6
    every: int = 10

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """The closest pair, relative to its radii."""
        symbols = sorted(set(now.atoms.get_chemical_symbols()))
        radii = {symbol: float(covalent_radii[atomic_numbers[symbol]]) for symbol in symbols}
        limits = {(a, b): self.fraction * (radii[a] + radii[b]) for a in symbols for b in symbols}
        i, j, distances = neighbor_list("ijd", now.atoms, limits)
        if not len(i):
            return None
        own = covalent_radii[now.atoms.numbers]
        worst = int((distances / (own[i] + own[j])).argmin())
        pair = (int(i[worst]), int(j[worst]))
        names = " and ".join(f"{now.atoms.symbols[k]} {k}" for k in pair)
        ratio = distances[worst] / (own[pair[0]] + own[pair[1]])
        return self.alarm(
            f"{names} are {distances[worst]:.2f} Å apart, {ratio:.2f} of their covalent radii "
            f"(limit {self.fraction:g})",
            pair,
        )


@dataclass(frozen=True, kw_only=True)
class Ballistic(Guard):
    """An atom moves much faster than heat makes it.

    Attributes:
        factor: largest speed over sqrt(k T / m). Heat alone gives 8 once in 10^13 atoms and steps; a reaction leaves
            up to an electronvolt or two with one atom, 13 at 300 K.
        floor_K: a lower temperature than this counts as this, K: a cold structure that relaxes gets warm.
    """

    factor: float = 16.0
    floor_K: float = 300.0

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """The fastest atom relative to its thermal speed."""
        temperature = max(now.expected_K, self.floor_K)
        masses = now.atoms.get_masses()
        speeds = np.linalg.norm(now.atoms.get_momenta(), axis=1) / np.sqrt(masses * units.kB * temperature)
        fast = np.flatnonzero(~(speeds <= self.factor))
        if not len(fast):
            return None
        worst = int(fast[speeds[fast].argmax()])
        step = speeds[worst] * np.sqrt(units.kB * temperature / masses[worst]) * now.timestep_fs * units.fs
        return self.alarm(
            f"{now.atoms.symbols[worst]} {worst} moves {step:.3f} Å per step, {speeds[worst]:.1f} times its thermal "
            f"speed at {temperature:.0f} K (limit {self.factor:g})",
            fast,
        )


@dataclass(frozen=True, kw_only=True)
class Uncertain(Guard):
    """A force is too uncertain: the members of a committee disagree, or its calibrated error is large.

    Attributes:
        above: largest uncertainty of a force, eV/Å.
        by: `forces_std`, the spread among the members of a committee (root of the variances summed over directions), or
            `forces_error`, the error that a calibrated potential states.
    """

    above: float = 1.0
    by: Literal["forces_std", "forces_error"] = "forces_std"

    def blind(self, now: Snapshot) -> str | None:
        """The uncertainty."""
        return self.by if now.results.get(self.by) is None else None

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """Compare; nothing is said where the potential does not know its uncertainty."""
        values = now.forces_std if self.by == "forces_std" else now.results.get(self.by)
        return self.highest(now, values, self.above, WORDS[self.by])


@dataclass(frozen=True, kw_only=True)
class Extrapolating(Guard):
    """An atom is outside of what the potential was trained on, by its extrapolation grade.

    The grade is infinite for elements without training frames, and within the core repulsion of a potential.

    Attributes:
        above: largest extrapolation grade; up to 1 is interpolation. The reference study of Li | Li7P3S11 labels what
            lies between 1 and 2.5.
    """

    above: float = 2.5

    def blind(self, now: Snapshot) -> str | None:
        """The grades."""
        return "gamma" if now.results.get("gamma") is None else None

    def check(self, now: Snapshot, reference: None) -> Alarm | None:
        """Compare; nothing is said where the potential gives no grades."""
        return self.highest(now, now.results.get("gamma"), self.above, "the extrapolation grade is {:.2f}")


WORDS = {
    "forces_std": "the committee differs by {:.2f} eV/Å",
    "forces_error": "the force may be wrong by {:.2f} eV/Å",
}
