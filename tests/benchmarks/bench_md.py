"""Time steps of dynamics beside the upstream calculators: `python tests/benchmarks/bench_md.py`; see README.md."""

from __future__ import annotations

import argparse
import contextlib
import copy
import io
import json
import os
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, units
from ase.md.verlet import VelocityVerlet
from bench_ace import crystal, potential

SPEED = 1.0  # promised: upstream's time over ours, at worst
MODELS = ("chgnet", "mace:mini")


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print ratios; 1 if `--check` and a promise is not kept."""
    options = _parser().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # both sides get the same core, and only that one
    if options.peak is not None:
        print(json.dumps(peak(*options.peak.split(","))))
        return 0
    wanted = options.only or ["steps", "ace", "memory"]
    races = [race(name, options) for name in MODELS] if "steps" in wanted else []
    if "ace" in wanted:
        for atoms in options.ace_atoms:
            ace(atoms, options)
    if "memory" in wanted:
        memory(options)
    return 0 if all(races) or not options.check else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Time steps of dynamics beside the upstream calculators.")
    parser.add_argument("--only", choices=["steps", "ace", "memory"], action="append", help="this part only")
    parser.add_argument("--atoms", type=int, nargs="+", default=[84, 500, 2000], help="sizes of cells, about")
    parser.add_argument("--ace-atoms", type=int, nargs="+", default=[1000, 20000], help="sizes of cells for ACE")
    parser.add_argument("--seconds", type=float, default=60.0, help="for each side, model and size")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    return parser


def ours(name: str) -> Any:
    """Our calculator of a model, in single precision."""
    import finetune

    return finetune.calculator(name, device="cpu", dtype="float32")


def theirs(name: str) -> Any:
    """The calculator of chgnet or mace, of the same model in single precision."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name == "chgnet":
            from chgnet.model import CHGNet, CHGNetCalculator

            return CHGNetCalculator(CHGNet.load(verbose=False, use_device="cpu"), use_device="cpu")
        from mace.calculators import MACECalculator

        import finetune

        model = copy.deepcopy(finetune.load(name).model)
        return MACECalculator(models=model, device="cpu", default_dtype="float32")


def dynamics(atoms: Atoms, calculator: Any) -> VelocityVerlet:
    """Constant energy, 1 fs, with the momenta of 300 K."""
    atoms = atoms.copy()
    atoms.calc = calculator
    width = np.sqrt(atoms.get_masses() * units.kB * 300)[:, None]
    atoms.set_momenta(np.random.default_rng(0).standard_normal((len(atoms), 3)) * width)
    return VelocityVerlet(atoms, units.fs)


def timed(step: Callable[[], object]) -> float:
    """Seconds of processor time of a call."""
    start = time.process_time()
    step()
    return time.process_time() - start


def race(name: str, options: argparse.Namespace) -> bool:
    """Steps of both sides in turn, in the same loop of ASE."""
    kept = True
    for size in options.atoms:
        atoms = crystal(size)
        sides = [dynamics(atoms, make(name)) for make in (ours, theirs)]
        times: list[list[float]] = [[], []]
        for side in sides:
            side.run(2)
        while sum(map(sum, times)) < 2 * options.seconds or len(times[0]) < 3:
            for side, found in zip(sides, times, strict=True):
                found.append(timed(lambda side=side: side.run(1)))
        mine, peer = (float(np.median(found)) for found in times)
        same = np.abs(sides[0].atoms.get_positions() - sides[1].atoms.get_positions()).max()
        searches = sides[0].atoms.calc.neighbours.searches
        kept &= peer / mine >= SPEED
        print(
            f"{name:10s} {len(atoms):6d} atoms: ours {1000 * mine:8.1f} ms per step, upstream {1000 * peer:8.1f}, "
            f"ratio {peer / mine:.2f} ({len(times[0])} steps, {searches} searches, {same:.1g} Å apart at the end)",
            flush=True,
        )
    return kept


def ace(size: int, options: argparse.Namespace) -> None:
    """ns/day of the expansion of configs/ace.yaml, with the list kept and searched for at every step."""
    import finetune

    atoms = crystal(size)
    found = {}
    for skin in (1.0, 0.0):
        side = dynamics(atoms, finetune.calculator(potential(), device="cpu", skin=skin))
        side.run(1)
        times: list[float] = []
        while sum(times) < options.seconds / 2 or len(times) < 5:
            times.append(timed(lambda side=side: side.run(1)))
        found[skin] = float(np.mean(times))
    print(
        f"ace        {len(atoms):6d} atoms: {1000 * found[1.0]:8.1f} ms per step, {86400 / found[1.0] / 1e6:.3g} "
        f"ns/day at 1 fs; {found[0.0] / found[1.0]:.2f} times as fast as without a skin",
        flush=True,
    )


def memory(options: argparse.Namespace) -> None:
    """Peak memory beyond that of the smallest cell, for each atom more, ours and upstream's."""
    few, many = min(options.atoms), max(options.atoms)
    for name in MODELS:
        for side in ("ours", "theirs"):
            command = [sys.executable, __file__, "--peak"]
            small, large = (
                json.loads(subprocess.run([*command, f"{name},{side},{n}"], capture_output=True, check=True).stdout)
                for n in (few, many)
            )
            each = (large["MB"] - small["MB"]) / (large["atoms"] - small["atoms"])
            print(f"{name:10s} {side:7s} {each:.2f} MB for each atom, peak {large['MB']:.0f} MB", flush=True)


def peak(name: str, side: str, size: str) -> dict[str, float]:
    """Peak memory of a process that made three steps, MB."""
    side_of = dynamics(crystal(int(size)), {"ours": ours, "theirs": theirs}[side](name))
    with contextlib.redirect_stdout(io.StringIO()):
        side_of.run(3)
    status = Path("/proc/self/status").read_text()  # not getrusage, whose peak a child takes over from its parent
    (line,) = (line for line in status.splitlines() if line.startswith("VmHWM"))
    return {"MB": int(line.split()[1]) / 1024, "atoms": len(side_of.atoms)}


if __name__ == "__main__":
    sys.exit(main())
