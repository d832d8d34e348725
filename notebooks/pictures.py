"""Pictures of sampled structures, side by side, for docs/how-to/sampling.md.

python notebooks/pictures.py products.extxyz docs/figures/sampling-products.png --frames 2 15 5 12 25 55
"""

# %%
import argparse
from pathlib import Path

import ase.io
from ase.visualize.plot import plot_atoms
from matplotlib.figure import Figure

from finetune import plots


# %%
def main() -> None:
    """Draw the frames."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--frames", type=int, nargs="+", required=True)
    options = parser.parse_args()
    structures = ase.io.read(options.file, ":")
    figure = Figure(figsize=(1.6 * len(options.frames), 2.2), layout="constrained")
    for axes, k in zip(figure.subplots(1, len(options.frames)), options.frames, strict=True):
        plot_atoms(structures[k], axes, radii=0.35, rotation="-75x,15y,5z")
        axes.set_axis_off()
        volume = structures[k].get_volume() / len(structures[k])
        axes.set_title(f"{structures[k].get_chemical_formula()}\n{volume:.1f} Å³/atom", fontsize=8)
    plots.save(figure, options.picture)


if __name__ == "__main__":
    main()
