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


def errors_of(run: Path) -> tuple[int, dict[str, float], dict[str, dict[str, float]]]:
    """Number of training labels, and the errors on all test frames and on those of each family."""
    labels = json.loads((run / "provenance.json").read_text())["data"]["train"]
    errors = json.loads((run / "after.json").read_text())["test"]
    return labels, errors["all"], errors["family"]


def written(row: dict[str, float], name: str) -> str:
    """An error with its 95 % interval over the groups, where there are three or more."""
    ends = [row.get(f"{name}_{end}") for end in ("low", "high")]
    return f"{row[name]:.0f}" + (f" ({ends[0]:.0f} to {ends[1]:.0f})" if None not in ends else "")


# %%
def main() -> None:
    """All fits, the figure, and the table for the documentation."""
    curves: dict[str, list[tuple[int, float]]] = {}
    for label, (config, epochs) in MODELS.items():
        for fraction in FRACTIONS:
            labels, every, family = errors_of(fit(config, fraction, epochs))
            curves.setdefault(label, []).append((labels, every["forces_mae"]))
            forces = [written(row, "forces_mae") for row in (every, *family.values())]
            print("|", " | ".join([label, str(labels), *forces, written(every, "energy_mae")]), "|", flush=True)
    untouched = json.loads((RUNS / "chgnet-1" / "before.json").read_text())["test"]["all"]["forces_mae"]
    figure = Path("docs/figures/learning-curve.png")
    plots.learning_curve(curves, figure, levels={"untouched CHGNet 0.3.0": untouched})
    print(f"figure: {figure}")


if __name__ == "__main__":
    main()
