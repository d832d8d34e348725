"""Learning curves: errors on the test frames against the number of labels, for CHGNet and mace:mini.

Run from the top of the repository, about an hour on two cores:

    python notebooks/learning_curves.py

Every fit takes as many optimiser steps as the one with all labels. What is there already is not fitted again.
"""

# %%
import json
import subprocess
import sys
from pathlib import Path

from finetune import plots

FRACTIONS = (0.1, 0.25, 0.5, 1.0)
RUNS = Path("runs/learning-curves")
MODELS = {"CHGNet 0.3.0": ("chgnet", 30), "mace:mini": ("mace", 60)}  # label: config, epochs with all labels


# %%
def fit(config: str, fraction: float, epochs: int) -> Path:
    """One fit with a share of the labels, in a run directory of its own."""
    run = RUNS / f"{config}-{fraction:g}"
    every = round(1 / fraction)
    if not (run / "after.json").is_file():
        resume = ["--ckpt_path", "last"] if (run / "last.ckpt").is_file() else []
        command = [str(Path(sys.executable).with_name("finetune")), "fit", "-c", "configs/base.yaml"]
        command += ["-c", f"configs/{config}.yaml", "--data.fraction", str(fraction)]
        command += ["--trainer.max_epochs", str(epochs * every), "--trainer.check_val_every_n_epoch", str(every)]
        command += ["--trainer.default_root_dir", str(run), *resume]
        print("$", *command, flush=True)
        subprocess.run(command, check=True)
    return run


def point(run: Path, name: str) -> tuple[int, float]:
    """Number of training labels, and an error on the test frames."""
    labels = json.loads((run / "provenance.json").read_text())["data"]["train"]
    return labels, json.loads((run / "after.json").read_text())["test"]["all"][name]


# %%
def main() -> None:
    """All fits, the figure, and the table for the documentation."""
    errors: dict[str, list[tuple[int, float]]] = {}
    for label, (config, epochs) in MODELS.items():
        runs = [fit(config, fraction, epochs) for fraction in FRACTIONS]
        errors[label] = [point(run, "forces_mae") for run in runs]
        for run, (labels, forces) in zip(runs, errors[label], strict=True):
            energy = point(run, "energy_mae")[1]
            print(f"| {label} | {labels} | {forces:.0f} | {energy:.0f} |")
    untouched = json.loads((RUNS / "chgnet-1" / "before.json").read_text())["test"]["all"]["forces_mae"]
    figure = Path("docs/figures/learning-curve.png")
    plots.learning_curve(errors, figure, levels={"untouched CHGNet 0.3.0": untouched})
    print(f"figure: {figure}")


if __name__ == "__main__":
    main()
