"""Epoch time against upstream: `python tests/benchmarks/bench_epoch.py`; see README.md for what is compared."""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from race import Race
from sides import run

ROOT = Path(__file__).parents[2]
PEERS = {"chgnet": "chgnet.trainer.Trainer", "mace": "mace.cli.run_train"}
TURN_S = 600.0  # longest time that a side may take for one turn
GRACE_S = 5.0  # after the last turn; what mace still does then is of no interest
SAME = 0.01  # relative difference of the reported errors above which the sides cannot have done the same work


@dataclass(frozen=True)
class Times:
    """Seconds of each epoch of both sides, shape (repeats, epochs, 2: by the clock, of the processor).

    And what each side reports as error of the forces in the first epoch, eV/Å.
    """

    ours: np.ndarray
    peer: np.ndarray
    errors: tuple[float, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Race, print ratios; 1 if `--check` and a promise is not kept."""
    options = _parser().parse_args(arguments)
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(options.threads)))
    kept = True
    for backbone in options.only or PEERS:
        with tempfile.TemporaryDirectory() as folder:
            foundation = prepare(backbone, Path(folder), options.frames, options.tiny)
            sizes = (options.epochs, options.batch, options.threads, options.references)
            race = Race(Path(folder), backbone, foundation, *sizes)
            times = [_once(race, k) for k in range(options.repeats)]
        kept &= _tell(backbone, options, _joined(times))
    return 0 if kept or not options.check else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Epoch time of this package and of upstream, side by side.")
    parser.add_argument("--only", choices=PEERS, action="append", help="race against this one only")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch on each side")
    parser.add_argument("--frames", type=int, default=64, help="frames of data/starting, a multiple of the batch")
    parser.add_argument("--batch", type=int, default=4, help="structures in a batch")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of each fit; all but the first count as warm")
    parser.add_argument("--repeats", type=int, default=3, help="fits of each side, each in a fresh process")
    parser.add_argument("--references", action="store_true", help="let our first epoch refit reference energies")
    parser.add_argument("--tiny", action="store_true", help="a toy MACE, to see that the benchmark works")
    parser.add_argument("--check", action="store_true", help="exit with 1 if the promised ratios are not reached")
    return parser


def prepare(backbone: str, folder: Path, count: int, tiny: bool) -> str:
    """Write training frames, one other frame for validation and the foundation; return the foundation's model name."""
    frames = [atoms for path in sorted(ROOT.glob("data/starting/*.extxyz")) for atoms in ase.io.read(path, ":")]
    if not 0 < count <= len(frames):
        raise SystemExit(f"--frames {count}: data/starting has {len(frames)}; give 1 to {len(frames)}")
    rng = np.random.default_rng(0)
    chosen = [frames[i] for i in rng.permutation(len(frames))[:count]]
    other = chosen[0].copy()
    other.positions += rng.normal(0, 0.01, other.positions.shape)
    ase.io.write(folder / "train.extxyz", chosen, format="extxyz")
    ase.io.write(folder / "valid.extxyz", other, format="extxyz")
    if backbone == "chgnet":
        return "chgnet:0.3.0"
    path = folder / "start.model"
    _alone(_write_mace, path, tiny)
    return os.fspath(path)


def _write_mace(path: Path, tiny: bool) -> None:
    """A MACE of the architecture of mace:mini with random weights, as the pickle that mace reads and writes."""
    import torch

    from finetune import models

    torch.manual_seed(0)
    config = yaml.safe_load((ROOT / "configs/pretrain/mace-mini.yaml").read_text())["model"]["potential"]
    potential = models.backbone("mace").tiny().float() if tiny else models.build(config)
    torch.save(potential.model, path)


def _alone(function: Any, *arguments: Any) -> None:
    """Call in a process of its own, so that this one stays small and idle."""
    process = multiprocessing.get_context("spawn").Process(target=function, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{function.__name__} failed, see above")


def _once(race: Race, repeat: int) -> Times:
    """One fit of each side, epoch by epoch in turns; who goes first alternates."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    processes: dict[str, Any] = {}
    for side in ("ours", race.backbone):
        pipes[side], end = context.Pipe()
        processes[side] = context.Process(target=run, args=(side, end, race), daemon=True)
        processes[side].start()
        end.close()
    try:
        for side in pipes:
            _heard(side, pipes[side])
        told: dict[str, list[tuple[float, float, float]]] = {side: [] for side in pipes}
        for epoch in range(race.epochs):
            for side in list(pipes)[:: 1 if (epoch + repeat) % 2 else -1]:
                pipes[side].send("go")
                told[side].append(_heard(side, pipes[side]))
                if epoch + 1 < race.epochs:  # what comes after the last epoch must not disturb the other side
                    pipes[side].send("go on")
                    _heard(side, pipes[side])
        for pipe in pipes.values():
            pipe.send("go on")
    finally:
        for process in processes.values():
            process.join(GRACE_S)
            process.kill()
    mine, theirs = (np.array(told[side]) for side in ("ours", race.backbone))
    return Times(mine[None, :, :2], theirs[None, :, :2], (float(mine[0, 2]), float(theirs[0, 2])))


def _heard(side: str, pipe: Any) -> Any:
    """What a side says next."""
    if not pipe.poll(TURN_S):
        raise SystemExit(f"{side} said nothing for {TURN_S:.0f} s")
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(f"{side} failed, see above") from None


def _joined(times: Sequence[Times]) -> Times:
    return Times(np.concatenate([t.ours for t in times]), np.concatenate([t.peer for t in times]), times[0].errors)


def _tell(backbone: str, options: argparse.Namespace, times: Times) -> bool:
    """Print the ratios of one race; whether what is promised holds."""
    mine, theirs = times.errors
    if not abs(mine - theirs) <= SAME * theirs:
        raise SystemExit(f"not the same work: forces MAE {mine:.4f} eV/Å here, {theirs:.4f} eV/Å in {backbone}")
    ratios = times.peer / times.ours
    print(
        f"\n{PEERS[backbone]} / ours, {options.frames} frames, {options.batch} per batch, {options.threads} thread(s)"
    )
    print(f"  same work: forces MAE in the first epoch {mine:.4f} eV/Å here, {theirs:.4f} eV/Å there")
    kept = _line("warm epoch", ratios[:, 1:].reshape(-1, 2), 1.0)
    if backbone == "chgnet":
        also = " and reference energies" if options.references else ""
        kept &= _line(f"first epoch, ours with graphs{also}", ratios[:, 0], 1.5)
    return kept


def _line(what: str, ratios: np.ndarray, promised: float) -> bool:
    """Print median and extremes of some ratios."""
    if not len(ratios):
        return True
    low, middle, high = ratios.min(axis=0), np.median(ratios, axis=0), ratios.max(axis=0)
    by = [f"{middle[k]:.2f} ({low[k]:.2f} to {high[k]:.2f})" for k in range(2)]
    print(f"  {what}: {by[0]} by the clock, {by[1]} of processor time; {len(ratios)} pairs, promised {promised}")
    return bool(middle[0] >= promised)


if __name__ == "__main__":
    sys.exit(main())
