"""Cross-validation by group: every frame of data/interface is predicted by a CHGNet that never saw its group.

Run from the top of the repository, about 40 minutes on one core:

    python notebooks/cross_validation.py
    python notebooks/cross_validation.py plain --model.optimizer.init_args.lr 2e-3 --model.loss.forces 1 \\
        --trainer.max_epochs 20 --trainer.callbacks null

The second is a plain training loop for comparison: a name, and options that every fit gets in addition.

The test part of one split is 46 frames; this uses all 254. The last weights are evaluated, not the best, because the
frames that are held out also stand in as validation frames. What is there already is not fitted again.
"""

# %%
import subprocess
import sys
from pathlib import Path

import ase.io
from rich.console import Console

import finetune
from finetune.data.frames import Frame, hash_fraction
from finetune.data.reading import read
from finetune.evaluation import compare_table, evaluate
from finetune.metrics import errors
from finetune.properties import Properties, concatenate

FOLDS = 5
NAME, OPTIONS = (sys.argv[1:2] or ["configs"])[0], sys.argv[2:]
RUNS = Path("runs/cross-validation") / NAME


# %%
def folds(frames: list[Frame]) -> list[list[Frame]]:
    """Groups in the order of a hash of their names, dealt to the folds."""
    groups = sorted({frame.group for frame in frames}, key=lambda group: hash_fraction(0, group))
    place = {group: k % FOLDS for k, group in enumerate(groups)}
    return [[frame for frame in frames if place[frame.group] == k] for k in range(FOLDS)]


def write(frames: list[Frame], path: Path) -> Path:
    """The frames with their labels as extended XYZ."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file():
        ase.io.write(path, [frame.atoms for frame in frames], format="extxyz")
    return path


def fit(k: int, train: Path, held_out: Path) -> Path:
    """One fit that does not see fold k."""
    run = RUNS / f"fold-{k}"
    if not (run / "after.json").is_file():
        resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
        command = [str(Path(sys.executable).with_name("finetune")), "fit", "-c", "configs/base.yaml"]
        command += ["-c", "configs/chgnet.yaml", "--data.train", str(train), "--data.valid", str(held_out)]
        command += ["--data.test", "null", "--trainer.default_root_dir", str(run), *resume, *OPTIONS]
        print("$", *command, flush=True)
        subprocess.run(command, check=True)
    return run / "last.ckpt"


# %%
def main() -> None:
    """All fits, and one table over all frames."""
    parts = folds(read([f"data/interface/{part}.extxyz" for part in ("train", "valid", "test")]))
    predicted: list[Properties] = []
    for k, held_out in enumerate(parts):
        rest = [frame for part in parts if part is not held_out for frame in part]
        train = write(rest, RUNS / f"train-{k}.extxyz")
        weights = fit(k, train, write(held_out, RUNS / f"test-{k}.extxyz"))
        predicted.append(evaluate(finetune.load(weights), held_out).predicted)
    frames = [frame for part in parts for frame in part]
    before = evaluate(finetune.load("chgnet"), frames, shift=True)
    after = errors(
        concatenate(predicted), before.labels, before.n_atoms, [frame.family for frame in frames], before.numbers
    )
    Console(width=100).print(compare_table(before.errors, after))


if __name__ == "__main__":
    main()
