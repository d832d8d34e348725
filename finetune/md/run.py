"""Dynamics in stages, watched by guards, written down, and taken up again to the last bit."""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.velocitydistribution import Stationary, thermalize_momenta

from finetune.files import check_directory, sweep, write_frames
from finetune.locks import locked
from finetune.md import state
from finetune.md.directory import SETTINGS, claim, identity, put_back, writing
from finetune.md.files import Appended, row, trajectory
from finetune.md.frames import finite, frozen, plain
from finetune.md.guards import Alarm, Guard
from finetune.md.progress import Steps, Stopped, Wish, wishes
from finetune.md.settings import COLUMNS, GUARDS, Outcome, Output, Stage, cautions, check, failures, probe
from finetune.md.snapshot import Snapshot
from finetune.md.velocities import warn_unread
from finetune.progress import line

CHECKPOINT = "checkpoint.npz"
CALCULATOR = "Calculator"  # who stops a run where there are no forces: it goes on from the last checkpoint
EVENTS = ("step", "time_ps", "guard", "action", "message")
KEPT, SPACING = 5, 20  # frames before a stop, and the steps between two
QUIET = 1000  # steps before a guard that warns or saves does so again


def simulate(
    atoms: Atoms,
    stages: Sequence[Stage],
    directory: str | Path,
    guards: Sequence[Guard] = GUARDS,
    output: Output = Output(),  # noqa: B008  frozen
    seed: int = 0,
    progress: bool = True,
) -> Outcome:
    """Run molecular dynamics of atoms with their calculator; the same call goes on where it was stopped.

    The atoms move in place. Momenta that they have are kept; otherwise they are drawn for the first temperature.

    Args:
        atoms: the structure, with a calculator; what is fixed by `FixAtoms` stays.
        stages: one after the other.
        directory: gets the trajectory, `log.csv`, `guards.csv`, `checkpoint.npz` and `final.extxyz`; after a stop by a
            guard `before.extxyz` and `after.extxyz`, for labelling.
        guards: what watches; none for `[]`.
        output: names and intervals of what is written.
        seed: momenta and noise follow from it.
        progress: show a bar, or a line now and then where there is no terminal.

    Raises:
        InputError: settings that make no sense, a directory of another run, a full disk.
        Stopped: by SIGINT or SIGTERM, after a checkpoint.
    """
    check(atoms, stages, output, guards, seed)
    place = Path(directory)
    check_directory(place, (SETTINGS,), "a simulation")
    put_back(atoms, place / CHECKPOINT)
    probe(atoms, stages)
    with locked(place):
        claim(place, identity(atoms, stages, output, seed))
        sweep(place)
        return _simulated(_Run(atoms, stages, place, guards, output, seed), progress)


def _simulated(run: _Run, progress: bool) -> Outcome:
    """Go on with a run until its end, with a bar."""
    with wishes() as wish, Steps(run.total, progress) as bar, writing(run.place):
        try:
            run.open()
            if run.step:
                end = run.alarm is not None or run.step >= run.total
                what = "is over already" if end else "goes on"
                print(f"{run.place}: this simulation {what} at {run.time_ps:.3f} ps", file=sys.stderr)
            return run.go(wish, bar)
        finally:
            run.close()


class _Run:
    """A simulation in progress."""

    def __init__(
        self, atoms: Atoms, stages: Sequence[Stage], place: Path, guards: Sequence[Guard], output: Output, seed: int
    ) -> None:
        self.atoms, self.stages, self.place, self.guards, self.output = atoms, stages, place, guards, output
        self.rng = np.random.default_rng(seed)
        self.total = sum(stage.steps for stage in stages)
        self.step = self.stage = self.in_stage = 0
        self.time_ps = 0.0
        self.conserved: float | None = None
        self.stage_K = 0.0
        self.told: dict[str, int] = {}  # when each guard that does not stop has last been told
        self.drawn = not atoms.get_momenta().any()
        self.alarm: Alarm | None = None
        self.files: list[Any] = []
        self.before: deque[Atoms] = deque(maxlen=KEPT)

    def open(self) -> None:
        """Take up the checkpoint, or begin."""
        path = self.place / CHECKPOINT
        arrays, facts = state.read(path) if path.is_file() else ({}, {"sizes": [0, 0, 0]})
        for name, size in zip((self.output.trajectory, "log.csv", "guards.csv"), facts["sizes"], strict=True):
            file = trajectory(self.place / name, size) if not self.files else Appended(self.place / name, size)
            self.files.append(file)
        if arrays:
            self._take_up(arrays, facts)
        else:
            self._begin()
            self.files[1].add(row(COLUMNS))
            self.files[2].add(row(EVENTS))
            self._write(self._snapshot())
        for text in cautions(self.guards, self._snapshot()):
            line(text)
        self.references = [guard.reference(self.start) for guard in self.guards]
        self.checkpoint()

    def _begin(self) -> None:
        """Momenta, and the first stage."""
        if self.drawn:
            warn_unread(self.atoms)
            ensemble = self.stages[0].ensemble
            temperature = ensemble.temperature(0.0) if self.output.start_K is None else self.output.start_K
            assert temperature is not None  # `check` has seen to it
            thermalize_momenta(self.atoms, temperature, rng=self.rng)
        self._enter(0)
        self.start = Snapshot(frozen(self.atoms), degrees=self.degrees, stage_K=self.stage_K)

    def _enter(self, stage: int) -> None:
        """Start the dynamics of a stage."""
        self.stage, self.in_stage = stage, 0
        ensemble, n = self.stages[stage].ensemble, len(self.atoms)
        given = stage == 0 and not self.drawn and ensemble.temperature(0.0) is None  # NVE of somebody's own momenta
        if n > 1 and ensemble.degrees(self.atoms) == 3 * n - 3 and not given:
            Stationary(self.atoms, preserve_temperature=False)  # Langevin's noise has moved it
        self._build()
        self.conserved = self.ensemble.conserved(self.dynamics)
        self.stage_K = self._snapshot().temperature_K

    def _build(self) -> None:
        self.ensemble = self.stages[self.stage].ensemble
        self.degrees = self.ensemble.degrees(self.atoms)
        self.dynamics: Any = self.ensemble.dynamics(self.atoms, self.rng)

    def _take_up(self, arrays: dict[str, np.ndarray], facts: dict[str, Any]) -> None:
        """Everything as it was when the checkpoint was written."""
        for name in ("step", "stage", "in_stage", "time_ps", "conserved", "stage_K"):
            setattr(self, name, facts[name])
        self.told, self.drawn = facts["told"], facts["drawn"]
        if facts["alarm"] is not None and facts["guards"] == self._guards():
            self.alarm = Alarm(**facts["alarm"])
        for positions, cell in zip(arrays["before"], arrays["before_cells"], strict=True):
            frame = plain(self.atoms)
            frame.set_cell(cell)
            frame.arrays["positions"][:] = positions
            self.before.append(frame)
        began = self.atoms.copy()
        state.set_arrays(began, arrays, "start_")
        began.calc = SinglePointCalculator(began, energy=facts["start_energy"])
        state.set_arrays(self.atoms, arrays)
        self._build()
        state.set_numbers(self.dynamics, {k.removeprefix("dynamics."): v for k, v in arrays.items()})
        self.rng.bit_generator.state = facts["rng"]
        self.start = Snapshot(began, degrees=facts["start_degrees"], stage_K=facts["start_K"])

    def go(self, wish: Wish, bar: Steps) -> Outcome:
        """Step until the end, a guard's stop, or a signal."""
        bar.start(self.step)
        while self.alarm is None and (self.step < self.total):
            if wish.signal is not None:
                self.checkpoint()
                raise Stopped(f"stopped at {self.time_ps:.3f} ps; the same command goes on from there", wish.signal)
            if self.in_stage == self.stages[self.stage].steps:
                self._enter(self.stage + 1)
            self._advance()
            bar.show(self.time_ps, self.atoms)
            if time.monotonic() - self.saved > self.output.checkpoint_s:
                self.checkpoint()
        if self.alarm is None or self.alarm.guard != CALCULATOR:  # within a step there is nothing to go on from
            self.checkpoint()
            write_frames(self.place / "final.extxyz", [plain(self.atoms, momenta=True)])
        return Outcome(self.place, self.step, self.time_ps, self.total, self.alarm)

    def _advance(self) -> None:
        """One step, its guards and what is written."""
        fraction = self.in_stage / self.stages[self.stage].steps
        target, constant = self.ensemble.temperature(fraction), self.ensemble.temperature(0.0)
        if target is not None and self.ensemble.temperature(1.0) != constant:
            self.ensemble.set_temperature(self.dynamics, target)
        if self.step % SPACING == 0:
            self.before.append(plain(self.atoms))
        trouble = None
        try:
            self.dynamics.step()
            if not np.isfinite(self.atoms.get_forces()).all():
                trouble = Alarm(CALCULATOR, "forces are not finite", np.flatnonzero(~finite(self.atoms)).tolist())
        except MemoryError:  # nothing that the structure has done
            raise
        except failures(self.atoms.calc) as error:
            trouble = Alarm(CALCULATOR, f"no forces for this structure: {error or type(error).__name__}")
        self.step, self.in_stage = self.step + 1, self.in_stage + 1
        self.time_ps += self.ensemble.timestep_fs / 1000
        if trouble is not None:
            self._stop(trouble)
            return
        now = self._snapshot()
        for k, guard in enumerate(self.guards):
            alarm = guard.check(now, self.references[k]) if self.step % guard.every == 0 else None
            if alarm is not None:
                self._act(guard, alarm)
        if self.step % self.output.log_every == 0 or self.step % self.output.every == 0:
            self._write(now)

    def _act(self, guard: Guard, alarm: Alarm) -> None:
        """Stop, or tell a fault now and then and save its frame."""
        if guard.action == "stop":
            if self.alarm is None:
                self._stop(alarm)
        elif self.step - self.told.get(repr(guard), -QUIET) >= QUIET:
            self.told[repr(guard)] = self.step
            self._tell(alarm, guard.action)
            if guard.action == "save":
                frame = plain(self.atoms)
                frame.info |= self._story(alarm)
                write_frames(self.place / "saved" / f"{self.step:09d}-{alarm.guard}.extxyz", [frame])

    def _stop(self, alarm: Alarm) -> None:
        """Write the frames before and after, and end."""
        self.alarm = alarm
        self._tell(alarm, "stop")
        after = plain(self.atoms)
        for frame in (*self.before, after):
            frame.info |= self._story(alarm)
        write_frames(self.place / "before.extxyz", list(self.before))
        if np.isfinite(after.positions).all():
            write_frames(self.place / "after.extxyz", [after])

    def _tell(self, alarm: Alarm, action: str) -> None:
        text = f'"{alarm.message.replace(chr(34), chr(39))}"'
        self.files[2].add(row([self.step, self.time_ps, alarm.guard, action, text]))
        if action != "stop":
            line(f"{self.time_ps:.3f} ps: {alarm.guard}: {alarm.message}")

    def _story(self, alarm: Alarm) -> dict[str, str]:
        formula = self.atoms.get_chemical_formula()
        return {"family": "md", "group": f"{self.place.name}-{formula}", "made_by": f"md, {alarm.guard}"}

    def _snapshot(self) -> Snapshot:
        stage = self.stages[self.stage]
        conserved = None if self.conserved is None else self.ensemble.conserved(self.dynamics)
        return Snapshot(
            self.atoms,
            step=self.step,
            time_ps=self.time_ps,
            timestep_fs=self.ensemble.timestep_fs,
            degrees=self.degrees,
            target_K=self.ensemble.temperature(self.in_stage / stage.steps),
            drift=None if conserved is None or self.conserved is None else conserved - self.conserved,
            stage_ps=self.in_stage * self.ensemble.timestep_fs / 1000,
            stage_K=self.stage_K,
            settling_ps=self.ensemble.settling_ps,
        )

    def _write(self, now: Snapshot) -> None:
        """A line of the log, a frame of the trajectory, when they are due."""
        if self.step % self.output.log_every == 0:
            self.files[1].add(row(self.output.line(now, self.stage)))
        if self.step % self.output.every == 0:
            self.files[0].write(self.output.frame(now))

    def checkpoint(self) -> None:
        """Write the state, after all that belongs to it is on the disk."""
        sizes = [file.sync() for file in self.files]
        names = ("step", "stage", "in_stage", "time_ps", "conserved", "stage_K")
        facts = {
            **{name: getattr(self, name) for name in names},
            "sizes": sizes,
            "rng": self.rng.bit_generator.state,
            "told": self.told,
            "drawn": self.drawn,
            "guards": self._guards(),
            "alarm": None if self.alarm is None else vars(self.alarm),
            "start_energy": float(self.start.atoms.get_potential_energy()),
            "start_degrees": self.start.degrees,
            "start_K": self.start.stage_K,
        }
        frames = {"before": [a.positions for a in self.before], "before_cells": [a.cell.array for a in self.before]}
        numbers = {f"dynamics.{name}": value for name, value in state.numbers(self.dynamics).items()}
        arrays = {**state.arrays_of(self.atoms), **state.arrays_of(self.start.atoms, "start_"), **numbers}
        arrays |= {name: np.array(values) for name, values in frames.items()}
        state.write(self.place / CHECKPOINT, arrays, facts)
        self.saved = time.monotonic()

    def _guards(self) -> list[str]:
        return [repr(guard) for guard in self.guards]

    def close(self) -> None:
        """Close the files."""
        for file in self.files:
            file.close()
