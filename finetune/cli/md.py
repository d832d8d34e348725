"""`finetune md -c CONFIG`: molecular dynamics in stages, with guards and exact restarts."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from ase.calculators.calculator import Calculator

from finetune.cli import inputs
from finetune.cli.inputs import built
from finetune.data.structures import read_structure
from finetune.errors import InputError
from finetune.md.guards import Guard
from finetune.md.progress import Stopped
from finetune.md.run import simulate
from finetune.md.settings import GUARDS, FixedLayer, Output, Stage
from finetune.md.velocities import set_velocities

STOPPED = 3  # exit status of a run that a guard has stopped


def run(arguments: list[str]) -> int:
    """Simulate with arguments as on the command line."""
    parser = inputs.parser(
        "md",
        "Molecular dynamics in stages, watched by guards. Run it again to go on after it was stopped.",
        "-c CONFIG [--structure FILE] [--calculator MODEL] [--directory DIR] [--OPTION VALUE ...]",
    )
    parser.add_function_arguments(md, as_group=False, as_positional=False)
    return md(**inputs.given(parser.instantiate(parser.parse_args(arguments[1:]))))


def md(
    structure: str,
    calculator: Calculator | str | list[str],
    stages: list[Stage],
    directory: Path,
    guards: list[Guard] | None = None,
    fixed: list[FixedLayer] = [],  # noqa: B006
    repeat: tuple[int, int, int] = (1, 1, 1),
    velocities: str | None = None,
    output: Output = Output(),  # noqa: B008  frozen
    seed: int = 0,
    device: str | None = None,
    dtype: str = "float32",
    threads: int = 1,
) -> int:
    """Molecular dynamics; exit status 0 at the end, 3 after a stop by a guard, 130 after SIGINT, 143 after SIGTERM.

    Args:
        structure: file that ASE reads; `FILE@3` is its fourth frame, otherwise the last one is taken.
        calculator: model name, run directory or checkpoint; a list of them for a committee; or an ASE calculator by
            `class_path`.
        stages: what is held constant, and for how long; one after the other.
        directory: where everything is written; the same command goes on there.
        guards: what watches, by `class_path`; null for the usual ones, [] for nothing.
        fixed: layers of atoms that do not move.
        repeat: how often the structure is repeated along each lattice vector.
        velocities: unit of velocities that the structure has under another name than ASE's `momenta` (`velocities`,
            `vel`, columns `vx`, `vy`, `vz`): ase, A/fs, A/ps, nm/ps, m/s or bohr/atomic; null draws momenta anew.
        output: names and intervals of what is written.
        seed: momenta and noise follow from it.
        device: torch device of a model; null takes the GPU where there is one.
        dtype: float32 (fast, for dynamics) or float64, for a model.
        threads: of torch on the CPU; more than one is slower for small structures, and much slower on busy cores.
    """
    if threads < 1:
        raise InputError(f"--threads is {threads}; give 1 or more")
    torch.set_num_threads(threads)
    atoms = read_structure(structure)
    if velocities is not None:
        set_velocities(atoms, velocities)
    atoms = atoms.repeat(repeat) if tuple(repeat) != (1, 1, 1) else atoms
    if fixed:
        atoms.set_constraint([*atoms.constraints, *(layer.constraint(atoms) for layer in fixed)])
    atoms.calc = built(calculator, device, dtype)
    try:
        outcome = simulate(atoms, stages, directory, GUARDS if guards is None else guards, output, seed)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signal
    print(outcome.message())
    return STOPPED if outcome.alarm is not None else 0
