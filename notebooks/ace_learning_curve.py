"""An atomic cluster expansion beside untouched CHGNet on labelled frames of your own, against the number of frames.

    python notebooks/ace_learning_curve.py train.extxyz valid.extxyz [--frames 25 50 100 200 400] [--epochs 30]

Linear in closed form with 341 and with all 775 functions per element, and refined by gradient with Finnis-Sinclair
embedding. The validation frames choose ridge and epoch and give the errors, so theirs are a little too good. What is
there already is not fitted again.
"""

# %%
import argparse
import json
import subprocess
import sys
from pathlib import Path

from finetune.data.reading import read

RUNS = Path("runs/ace-learning-curve")
BASIS = "--model.potential.init_args.functions"
KINDS = {
    "linear, 341 functions": [],
    "linear, 775 functions": [BASIS, "null"],
    "Finnis-Sinclair, refined": ["-c", "configs/ace-refined.yaml", "--data.batch_edges", "20000"],
}


# %%
def finetune(*arguments: str) -> None:
    """Run a command and show it."""
    command = [str(Path(sys.executable).with_name("finetune")), *arguments]
    print("$", *command, flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def fit(kind: str, frames: int, options: argparse.Namespace) -> Path:
    """One fit, in a run directory of its own."""
    run = RUNS / f"{'-'.join(kind.replace(',', '').split())}-{frames}"
    if not (run / "after.json").is_file():
        share = frames / options.total
        extra = [*KINDS[kind], "--data.train", options.train, "--data.valid", options.valid, "--data.test", "null"]
        extra += ["--data.fraction", str(share), "--trainer.default_root_dir", str(run)]
        if "refined" in kind:  # as many steps with few frames as with all
            extra += ["--trainer.max_epochs", str(round(options.epochs / share) + 1)]
            extra += ["--trainer.check_val_every_n_epoch", str(round(1 / share))]
            extra += ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
        finetune("fit", "-c", "configs/base.yaml", "-c", "configs/ace.yaml", *extra)
    return run


def main() -> None:
    """All fits and the table for the documentation."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("train")
    parser.add_argument("valid")
    parser.add_argument("--frames", type=int, nargs="+", default=[25, 50, 100, 200, 400])
    parser.add_argument("--epochs", type=int, default=30, help="of the refinement with all frames")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    options.total = len(read(options.train))
    untouched = RUNS / "chgnet.json"
    if not untouched.is_file():
        RUNS.mkdir(parents=True, exist_ok=True)
        finetune("evaluate", "chgnet", options.valid, "--json", str(untouched))
    errors = json.loads(untouched.read_text())["all"]
    print(f"| CHGNet 0.3.0, untouched | | {errors['energy_mae']:.1f} | {errors['forces_mae']:.0f} |")
    for kind in options.kinds:
        for frames in options.frames:
            run = fit(kind, frames, options)
            errors = json.loads((run / "after.json").read_text())["valid"]["all"]
            print(f"| {kind} | {frames} | {errors['energy_mae']:.1f} | {errors['forces_mae']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
