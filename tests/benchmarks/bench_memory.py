"""Peak memory of a fit against the number of frames: `python tests/benchmarks/bench_memory.py`; see README.md."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

ROOT = Path(__file__).parents[2]
FLAT = 1.1  # the rest of the largest fit over that of the smallest: frames and labels themselves stay in memory, too


def main(arguments: Sequence[str] | None = None) -> int:
    """Fit each number of frames in a fresh process, print what is left of the peak; 1 if `--check` and it grows."""
    options = _parser().parse_args(arguments)
    if options.fit is not None:
        print(json.dumps(fit(options.fit, options)))
        return 0
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1"))
    print(f"{options.potential}, {options.epochs} epoch(s), {options.batch_edges} edges per batch; MB")
    print(f"{'frames':>8}{'peak':>10}{'graphs':>10}{'rest':>10}{'rest / first':>14}")
    rest: list[float] = []
    with tempfile.TemporaryDirectory() as name:
        for count in options.frames:
            write(count, Path(name))
            result = _alone(Path(name), options)
            peak, graphs = result["peak"], result["graphs"]
            rest.append(peak - graphs)
            print(f"{count:8d}{peak:10.2f}{graphs:10.2f}{rest[-1]:10.2f}{rest[-1] / rest[0]:14.3f}", flush=True)
    few, many = options.frames[0], options.frames[-1]
    print(f"beyond the graphs, {many} frames need {rest[-1] / rest[0]:.3f} times what {few} do")
    return int(options.check and rest[-1] / rest[0] > FLAT)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Peak memory of a fit beyond its cached graphs.")
    parser.add_argument("--frames", type=int, nargs="+", default=[64, 256, 1024], help="numbers of frames")
    parser.add_argument("--potential", default="chgnet", help="model name, chgnet.tiny, mace.tiny, or ace")
    parser.add_argument("--epochs", type=int, default=1, help="epochs of each fit")
    parser.add_argument("--batch-edges", type=int, default=4000, help="edges in a batch")
    parser.add_argument("--check", action="store_true", help=f"exit with 1 if that ratio is above {FLAT}")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    return parser


def write(count: int, folder: Path) -> None:
    """Write `count` training frames, those of data/starting over and over with small displacements, and one more."""
    frames = [atoms for path in sorted(ROOT.glob("data/starting/*.extxyz")) for atoms in ase.io.read(path, ":")]
    rng = np.random.default_rng(0)
    order = rng.permutation(len(frames))
    rattled = []
    for k in range(count + 1):
        atoms = frames[order[k % len(frames)]].copy()
        atoms.positions += rng.normal(0, 0.01, atoms.positions.shape)
        rattled.append(atoms)
    ase.io.write(folder / "train.extxyz", rattled[:count], format="extxyz")
    ase.io.write(folder / "valid.extxyz", rattled[count:], format="extxyz")


def _alone(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """The fit in a process of its own, whose peak is then the fit's."""
    command = [sys.executable, "-W", "ignore", __file__, "--fit", os.fspath(folder), "--potential", options.potential]
    command += ["--epochs", str(options.epochs), "--batch-edges", str(options.batch_edges)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"the fit failed with exit status {done.returncode}, see above")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def fit(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """One fit by Lightning as the command line sets it up; peak resident memory and size of the graphs, MB."""
    import lightning
    import torch
    from lightning.pytorch.callbacks import EMAWeightAveraging

    from finetune import models
    from finetune.cli.lightning import TRAINER, quiet
    from finetune.data.module import FrameData
    from finetune.training.closed_form import ClosedForm
    from finetune.training.module import FineTune

    quiet()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    name, _, kind = options.potential.rpartition(".")
    solved = options.potential == "ace"  # in closed form, with the basis of configs/ace.yaml
    if solved:
        potential = models.backbone("ace")(["Li", "P", "S"], core={})
    else:
        potential = models.backbone(name).tiny() if kind == "tiny" else models.load(options.potential)
    data = FrameData(
        train=str(folder / "train.extxyz"), valid=str(folder / "valid.extxyz"), batch_edges=options.batch_edges
    )
    average: Any = EMAWeightAveraging(decay=0.99, use_buffers=False)
    settings: dict[str, Any] = {
        **TRAINER,
        "accelerator": "cpu",
        "max_epochs": options.epochs,
        "gradient_clip_val": 10.0,
    }
    settings |= {"enable_progress_bar": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(callbacks=[] if solved else [average], **settings)
    with contextlib.redirect_stdout(io.StringIO()):
        trainer.fit(FineTune(potential, solve=ClosedForm() if solved else None), datamodule=data)
    tensors = [tensor for part in ("train", "valid") for graph in data.graphs(part) for tensor in graph.values()]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"peak": peak / 1e6, "graphs": sum(sizes.values()) / 1e6}


if __name__ == "__main__":
    sys.exit(main())
