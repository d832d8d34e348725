"""Where a potential is asked for more than it knows: molecular dynamics out of a pool of starts, or given structures.

Every run is a task of its own for an executor. It leaves `NAME.extxyz`, the sound frames with their uncertainty in
`info` and `arrays`, and `NAME.json`, what became of it; the frames are written first.
"""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.calculator import Calculator

from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.learning.files import read_frames
from finetune.learning.harvesting import Thresholds, Unknown, finish, harvest
from finetune.md.ensembles import NPT, Ensemble, Langevin
from finetune.md.guards import Ballistic, Energy, Guard, Pressure, TooClose, TooHot
from finetune.md.run import simulate
from finetune.md.settings import Outcome, Output, Stage, failures
from finetune.md.structure_guards import Evaporated, Voids
from finetune.sampling.core import Context, Limits, Sampler

GUARDS: tuple[Guard, ...] = (TooHot(), Energy(), Pressure(), TooClose(), Ballistic(), Evaporated(), Voids())


@dataclass(frozen=True)
class Task:
    """One exploration run.

    Attributes:
        name: of its files.
        atoms: the start, or the frames to look at.
        seed: numbers that its randomness follows from.
        facts: what is recorded of it beforehand.
        stages: of its dynamics; none for frames that are only looked at.
        change: what is done to the start.
    """

    name: str
    atoms: list[Atoms]
    seed: tuple[int, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    stages: tuple[Stage, ...] = ()
    change: Sampler | None = None


@dataclass(frozen=True, kw_only=True)
class Explorer(ABC):
    """Plans the runs of a generation.

    Attributes:
        thresholds: which frames are harvested, and where dynamics stop.
        limits: beyond these a frame is absurd and left out.
    """

    thresholds: Thresholds = field(default_factory=Thresholds)
    limits: Limits = field(default_factory=Limits)

    @property
    @abstractmethod
    def sources(self) -> list[str]:
        """Files of the structures that runs begin with."""

    @abstractmethod
    def tasks(self, seed: int, generation: int, held_out: Collection[str] = ()) -> list[Task]:
        """The runs of a generation; they depend on nothing but the arguments and the files.

        Frames by which the potentials are judged begin no run, nor others of their groups: what came of it would be
        learned from. `held_out` has the groups, and the hashes of the structures.
        """

    def pool(self, held_out: Collection[str] = ()) -> tuple[list[Frame], int]:
        """Frames of the sources that may be begun with, and how many may not.

        Raises:
            InputError: none may.
        """
        frames = read(self.sources, labelled=False)
        free = [frame for frame in frames if not {frame.group, frame.structure_hash} & set(held_out)]
        if not free:
            raise InputError(
                f"all {len(frames)} structures of {', '.join(self.sources)} are validation or test frames or of their "
                "groups; give others to the explorer, or their own `group`"
            )
        return free, len(frames) - len(free)

    @abstractmethod
    def run(self, task: Task, calculator: Calculator, place: Path) -> None:
        """Do one run; see the module."""


@dataclass(frozen=True, kw_only=True)
class Dynamics(Explorer):
    """Molecular dynamics out of a pool of starts, over temperatures and pressures, watched by guards.

    Attributes:
        starts: files of structures: crystals, glasses, interfaces.
        runs: in each generation; every one draws its start, temperature, pressure and change.
        temperatures_K: one of these.
        pressures_GPa: one of these; null keeps the cell.
        changes: one of these samplers, or none of them, changes the start first: strain, swapped sites, vacancies.
        ps: length of a run, ps.
        timestep_fs: time step, fs.
        every: steps between frames.
        guards: what watches beside the threshold of uncertainty; None for `GUARDS`.
    """

    starts: list[str]
    runs: int = 8
    temperatures_K: tuple[float, ...] = (300.0, 600.0, 900.0)
    pressures_GPa: tuple[float | None, ...] = (None,)
    changes: tuple[Sampler, ...] = ()
    ps: float = 2.0
    timestep_fs: float = 1.0
    every: int = 20
    guards: tuple[Guard, ...] | None = None

    @property
    def sources(self) -> list[str]:
        """The starts."""
        return self.starts

    def tasks(self, seed: int, generation: int, held_out: Collection[str] = ()) -> list[Task]:
        """`runs` tasks; the starts come in a shuffled order, so that all are used before one is used again."""
        frames, _ = self.pool(held_out)
        pool = [(frame.atoms, f"{Path(frame.source).stem}@{frame.index}", frame.group) for frame in frames]
        order: list[int] = []
        for lap in range((generation + 1) * self.runs // len(pool) + 1):
            order += np.random.default_rng([seed, lap, 1]).permutation(len(pool)).tolist()
        found = []
        for run in range(self.runs):
            rng = np.random.default_rng([seed, generation, run, 2])
            atoms, start, group = pool[order[generation * self.runs + run]]
            temperature = float(self.temperatures_K[rng.integers(len(self.temperatures_K))])
            pressure = self.pressures_GPa[rng.integers(len(self.pressures_GPa))]
            change = (None, *self.changes)[rng.integers(len(self.changes) + 1)]
            facts = {
                "start": start,
                "temperature_K": temperature,
                "pressure_GPa": pressure,
                "change": None if change is None else type(change).__name__,
                "planned_ps": self.ps,
            }
            atoms = _bare(atoms, start, group)
            stage = Stage(self._ensemble(temperature, pressure), self.ps)
            found.append(Task(f"run-{run:03d}", [atoms], (seed, generation, run), facts, (stage,), change))
        return found

    def _ensemble(self, temperature_K: float, pressure_GPa: float | None) -> Ensemble:
        if pressure_GPa is None:
            return Langevin(temperature_K=temperature_K, timestep_fs=self.timestep_fs)
        return NPT(temperature_K=temperature_K, pressure_GPa=pressure_GPa, timestep_fs=self.timestep_fs)

    def run(self, task: Task, calculator: Calculator, place: Path) -> None:
        """Simulate in `NAME.run`, going on where it was stopped, then keep its frames with their uncertainty."""
        folder = place / f"{task.name}.run"
        atoms = self._changed(task, calculator)
        outcome = atoms if isinstance(atoms, str) else self._simulated(atoms.copy(), task, calculator, folder)
        frames, before = (
            ([], []) if isinstance(outcome, str) else (_frames(folder, "trajectory"), _frames(folder, "before"))
        )
        kept, record = harvest(frames, calculator, self.thresholds, self.limits)
        kept += harvest(before, calculator, self.thresholds, self.limits)[0]
        if isinstance(outcome, str):
            record |= {"reached_ps": 0.0, "guard": "start", "message": outcome}
        else:
            alarm = outcome.alarm
            record |= {"reached_ps": round(outcome.time_ps, 6), "guard": None, "message": ""}
            record |= {"guard": alarm.guard, "message": alarm.message} if alarm else {}
        for frame in kept:
            info = task.atoms[0].info if isinstance(atoms, str) else atoms.info
            frame.info |= {"family": info["family"], "group": info["group"], "made_by": _story(task, frame)}
        finish(place, task.name, kept, {**task.facts, **record})
        shutil.rmtree(folder, ignore_errors=True)

    def _changed(self, task: Task, calculator: Calculator) -> Atoms | str:
        """The start as the change makes it, or why it cannot."""
        if task.change is None:
            return task.atoms[0]
        context = Context(np.random.default_rng([*task.seed, 3]), calculator, self.limits, labels=False)
        name = type(task.change).__name__
        try:
            atoms: Atoms | None = next(iter(task.change.frames(task.atoms[:1], context)), None)
        except OSError:  # a full disk is nothing that the start has done
            raise
        except failures(calculator) as error:
            return f"{name} cannot change this start: {error or type(error).__name__}"
        if atoms is None:
            return f"{name} makes nothing of this start"
        atoms.calc = None
        return atoms

    def _simulated(self, atoms: Atoms, task: Task, calculator: Calculator, folder: Path) -> Outcome | str:
        """How dynamics ended, or why they could not so much as begin."""
        reason = self.limits.reason(atoms)
        if reason:
            return f"the start is absurd: {reason}"
        atoms.calc = calculator
        unknown = Unknown(score=self.thresholds.score, above=self.thresholds.high)
        output = Output(every=self.every, log_every=self.every)
        seed = int(np.random.default_rng([*task.seed, 4]).integers(2**31))
        guards = (unknown, *(GUARDS if self.guards is None else self.guards))
        try:
            return simulate(atoms, task.stages, folder, guards, output, seed, progress=False)
        except InputError as error:
            if isinstance(error.__cause__, OSError):  # a full disk is nothing that the potential has done
                raise
            return str(error)


@dataclass(frozen=True, kw_only=True)
class Pool(Explorer):
    """Structures that are there already, made by `finetune sample` for instance; no dynamics.

    Attributes:
        files: structures, labelled or not.
        part: how many are looked at in each generation, drawn at random; None for all.
        chunk: structures per task.
    """

    files: list[str]
    part: int | None = None
    chunk: int = 100

    @property
    def sources(self) -> list[str]:
        """The files."""
        return self.files

    def tasks(self, seed: int, generation: int, held_out: Collection[str] = ()) -> list[Task]:
        """The structures in chunks."""
        frames, _ = self.pool(held_out)
        which = np.arange(len(frames))
        if self.part is not None and self.part < len(frames):
            rng = np.random.default_rng([seed, generation, 5])
            which = np.sort(rng.choice(len(frames), self.part, replace=False))
        pool = [
            _bare(frames[k].atoms, f"{Path(frames[k].source).stem}@{frames[k].index}", frames[k].group) for k in which
        ]
        for atoms, k in zip(pool, which, strict=True):
            atoms.info["family"] = frames[k].family
        parts = [pool[k : k + self.chunk] for k in range(0, len(pool), self.chunk)]
        return [Task(f"pool-{k:03d}", part, (seed, generation, k), {"start": "pool"}) for k, part in enumerate(parts)]

    def run(self, task: Task, calculator: Calculator, place: Path) -> None:
        """Look at the structures."""
        kept, record = harvest(task.atoms, calculator, self.thresholds, self.limits)
        finish(place, task.name, kept, {**task.facts, **record})


def _frames(folder: Path, name: str) -> list[Atoms]:
    """Frames that a run has written, without results: of its trajectory, or of shortly before a stop."""
    frames = read_frames(folder / f"{name}.extxyz")
    for atoms in frames:
        atoms.calc = None
        atoms.info = {key: value for key, value in atoms.info.items() if key == "time_ps"}
    return frames


def _story(task: Task, frame: Atoms) -> str:
    facts = task.facts
    cell = "" if facts["pressure_GPa"] is None else f", {facts['pressure_GPa']:g} GPa"
    change = f" > {facts['change']}" if facts["change"] else ""
    time = f" at {frame.info['time_ps']:g} ps" if "time_ps" in frame.info else ""
    return f"{facts['start']}{change} > md {facts['temperature_K']:g} K{cell}{time}"


def _bare(atoms: Atoms, start: str, group: str) -> Atoms:
    """A start without labels."""
    family = str(atoms.info.get("family", start.partition("@")[0]))
    info = {"family": family, "group": group, "made_by": start}
    return Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=atoms.pbc, info=info)
