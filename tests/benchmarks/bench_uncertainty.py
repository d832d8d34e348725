"""What it costs to know how uncertain a potential is: `python tests/benchmarks/bench_uncertainty.py`; see README.md."""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from bench_ace import ROOT, crystal, potential

SHALLOW, GRADED = 1.3, 1.2  # promised: calls with eight readouts, and with grades, over calls of the bare potential
MODELS = ("chgnet", "mace:mini", "ace")
MEMBERS = 8


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print ratios; 1 if `--check` and a promise is not kept."""
    options = _parser().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    kept = [race(name, size, options) for name in options.only or MODELS for size in options.atoms]
    return 0 if all(kept) or not options.check else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Cost of grades, calibrated errors and committees per step.")
    parser.add_argument("--only", choices=MODELS, action="append", help="this model only")
    parser.add_argument("--atoms", type=int, nargs="+", default=[84, 500], help="sizes of cells, about")
    parser.add_argument("--calls", type=int, default=20, help="calls of each calculator, in turn")
    parser.add_argument("--frames", type=int, default=44, help="training frames")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a promise is not kept")
    return parser


def sides(name: str, frames: Sequence[Any]) -> dict[str, Any]:
    """The bare potential, and what knows its uncertainty."""
    from finetune import models
    from finetune.committee import Committee
    from finetune.uncertainty import Graded, Shallow, active_sets, calibrate, shallow

    bare = potential() if name == "ace" else models.load(name)
    graded = Graded(bare, active_sets(bare, frames)).eval()
    eight = shallow(bare, frames, np.random.default_rng(0), members=MEMBERS, directions=1)
    weights = {number: eight.get_buffer(f"weights_{symbol}") for symbol, number in (("Li", 3), ("P", 15), ("S", 16))}
    return {
        "bare": bare,
        "graded": graded,
        "graded, calibrated": calibrate(graded, frames),
        f"{MEMBERS} readouts": eight,
        f"{MEMBERS} readouts, forces too": Shallow(bare, weights, forces=True).eval(),
        f"committee of {MEMBERS}": Committee([copy.deepcopy(bare) for _ in range(MEMBERS)]).eval(),
    }


def race(name: str, size: int, options: argparse.Namespace) -> bool:
    """Calls of the calculators in turn, of a crystal that moves a little in between."""
    import finetune
    from finetune.data.reading import read

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # e3nn copies its compiled parts
        known = sides(name, read(ROOT / "data/starting/train.extxyz")[: options.frames])
    atoms, rng = crystal(size), np.random.default_rng(0)
    calculators = {side: finetune.calculator(made, device="cpu") for side, made in known.items()}
    times: dict[str, list[float]] = {side: [] for side in known}
    for call in range(options.calls + 1):
        atoms.positions += rng.normal(scale=0.01, size=atoms.positions.shape)
        for side, calculator in calculators.items():
            start = time.process_time()
            calculator.calculate(atoms)
            if call:  # the first one warms up
                times[side].append(time.process_time() - start)
    pairs = {side: np.array(found) / np.array(times["bare"]) for side, found in times.items()}
    ratios = {side: float(np.median(pair)) for side, pair in pairs.items()}
    print(
        f"{name}, {len(atoms)} atoms, over the bare potential ({1000 * np.median(times['bare']):.1f} ms):", flush=True
    )
    for side, ratio in list(ratios.items())[1:]:
        low, high = np.quantile(pairs[side], [0.25, 0.75])
        print(f"  {side:26s} {ratio:.2f} ({low:.2f} to {high:.2f})", flush=True)
    return ratios[f"{MEMBERS} readouts"] <= SHALLOW and ratios["graded"] <= GRADED


if __name__ == "__main__":
    sys.exit(main())
