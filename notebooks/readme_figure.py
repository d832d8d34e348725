"""Figure of README: Li | Li7P3S11, and forces of CHGNet before and after fine-tuning against DFT.

finetune fit -c configs/base.yaml -c configs/chgnet.yaml --trainer.default_root_dir runs/chgnet
python notebooks/readme_figure.py runs/chgnet docs/figures/readme.png
"""

# %%
import argparse
from pathlib import Path

import ase.io
import numpy as np
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

import finetune
from finetune import plots
from finetune.data.reading import read

STRUCTURE = "data/campaign/structures/li-li7p3s11.extxyz"
FRAMES = "data/interface/test.extxyz"
FAMILIES = {
    "amorphous": "disordered mixtures",
    "interface": "interfaces",
    "crystal": "crystals (LiP, LiP5, P)",
    "defect": "defects in LiP",
}
LIMITS = (-3.5, 3.5)  # eV/Å


# %%
def forces(model: str) -> dict[str, list[tuple[np.ndarray, np.ndarray]]]:
    """Components of the DFT and of the predicted forces, eV/Å, of each frame by family."""
    calculator = finetune.calculator(model)
    found: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for frame in read(FRAMES):
        calculator.calculate(frame.atoms, ["forces"])
        pair = frame.labels.forces.numpy().ravel(), calculator.results["forces"].ravel()
        found.setdefault(frame.family, []).append(pair)
    return found


def main() -> None:
    """Predict and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="run directory of a fine-tuned CHGNet")
    parser.add_argument("picture", type=Path)
    options = parser.parse_args()
    figure = Figure(figsize=(10.5, 3.9), layout="constrained")
    cell, *panels = figure.subplots(1, 3, width_ratios=(0.55, 1, 1))
    plot_atoms(ase.io.read(STRUCTURE, 0), cell, radii=0.45, rotation="-90x,12y,4z", show_unit_cell=0)
    cell.set_title("Li | Li$_7$P$_3$S$_{11}$")
    cell.set_axis_off()
    models = {"CHGNet 0.3.0, untouched": "chgnet", "fine-tuned to 174 frames": options.model}
    for axes, (title, model) in zip(panels, models.items(), strict=True):
        axes.plot(LIMITS, LIMITS, color=plots.GREY, linewidth=0.8, zorder=1)
        pairs = forces(model)
        for k, (family, name) in enumerate(FAMILIES.items()):
            label, predicted = (np.concatenate(part) for part in zip(*pairs[family], strict=True))
            axes.scatter(label, predicted, s=6, alpha=0.5, linewidths=0, zorder=2, label=name, **plots.look(k))
        errors = np.concatenate([predicted - label for parts in pairs.values() for label, predicted in parts])
        text = f"forces MAE {1e3 * np.abs(errors).mean():.0f} meV/Å"
        axes.text(0.04, 0.96, text, transform=axes.transAxes, va="top")
        axes.set(title=title, xlabel="DFT, eV/Å", xlim=LIMITS, ylim=LIMITS, box_aspect=1)
        plots.bare(axes)
    panels[0].set_ylabel("predicted, eV/Å")
    figure.legend(
        *panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False, markerscale=2
    )
    plots.save(figure, options.picture)


if __name__ == "__main__":
    main()
