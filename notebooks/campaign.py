"""What the selection of a campaign was worth: both committees on the test frames, generation by generation.

    mkdir -p runs && tar -xJf data/campaign/learning.tar.xz -C runs
    finetune learn -c configs/learn/interface.yaml -c configs/learn/chgnet.yaml -c configs/learn/workstation.yaml \\
        --cutter.bonds '{}' --cutter.relax_steps 0 --directory runs/campaign
    python notebooks/campaign.py runs/campaign docs/figures/campaign.png

The second command only fits the members again whose weights are missing. The interval of a difference is that of 2000
bootstraps over the groups of the test frames (trajectories, built cells): what other test frames would have said. It
does not hold what another seed of the campaign would have chosen. What follows are errors by family, and where the
largest DFT forces of the sub-cells lie: within the radius that was asked about, or at the boundary that the cut made.
"""

# %%
import argparse
import json
import re
from pathlib import Path

import numpy as np
from ase import Atoms
from matplotlib.figure import Figure

from finetune import models, plots
from finetune.data.frames import Frame
from finetune.data.reading import read
from finetune.evaluation import evaluate
from finetune.labelling.store import identity
from finetune.learning.files import read_frames

ARMS = {"selected": "", "random control": "control"}


# %%
def deviations(folder: Path, frames: list[Frame]) -> list[np.ndarray]:
    """Deviations of the forces of a committee from DFT, one array (meV/Å) for each frame."""
    found = evaluate(models.load(folder), frames)
    apart = 1e3 * (found.predicted.forces - found.labels.forces).abs().numpy()
    return np.split(apart, np.cumsum([len(frame.atoms) for frame in frames])[:-1])


def mean(parts: list[np.ndarray], chosen: np.ndarray) -> float:
    """Mean over the atoms of the chosen frames; NaN of none."""
    return float(np.concatenate([parts[k] for k in chosen]).mean()) if len(chosen) else float("nan")


def interval(one: list[np.ndarray], other: list[np.ndarray], groups: list[str]) -> tuple[float, float]:
    """95 % interval of the difference of the means, from bootstraps over groups."""
    rng, names = np.random.default_rng(0), sorted(set(groups))
    places = {name: np.flatnonzero(np.array(groups) == name) for name in names}
    found = []
    for _ in range(2000):
        chosen = np.concatenate([places[names[k]] for k in rng.integers(len(names), size=len(names))])
        found.append(mean(one, chosen) - mean(other, chosen))
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)


# %%
def main() -> None:
    """The table, and the figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="of the campaign")
    parser.add_argument("figure", type=Path)
    parser.add_argument("--also", type=Path, help="labelled frames of another campaign, to evaluate both arms on")
    options = parser.parse_args()
    frames = read(options.directory / "test.extxyz")
    families, groups = np.array([frame.family for frame in frames]), [frame.group for frame in frames]
    parts = {"all": np.arange(len(frames)), "interfaces": np.flatnonzero(families == "interface")}
    curves: dict[str, dict[str, list[tuple[int, float]]]] = {name: {arm: [] for arm in ARMS} for name in parts}
    print("| new labels | selected | random control | difference (95 %) | interfaces: selected | control |")
    print("|---|---|---|---|---|---|")
    for place in sorted(options.directory.glob("generation-*")):
        count = len(read(place / "train.extxyz"))
        there = {arm: place / of for arm, of in ARMS.items() if (place / of / "member-0.ckpt").exists()}
        found = {arm: deviations(folder, frames) for arm, folder in there.items()}
        values = {arm: [mean(found.get(arm, found["selected"]), chosen) for chosen in parts.values()] for arm in ARMS}
        for arm, errors in values.items():
            for name, error in zip(parts, errors, strict=True):
                curves[name][arm].append((count, error))
        if len(found) == 2:
            (one, other), (near, far) = zip(*values.values(), strict=True)
            low, high = interval(found["random control"], found["selected"], groups)
            words = f"{other - one:+.1f} ({low:+.1f} to {high:+.1f})"
            new = count - curves["all"]["selected"][0][0]
            print(f"| {new} | {one:.1f} | {other:.1f} | {words} | {near:.0f} | {far:.0f} |")
    told(sorted(options.directory.glob("generation-*")))
    draw(curves, options.figure)
    if options.also is not None:
        elsewhere(options.directory, options.also)


def elsewhere(directory: Path, file: Path) -> None:
    """Print errors of both last committees on frames of another campaign that are in neither training set."""
    last = sorted(directory.glob("generation-*"))[-1]
    seen = {identity(atoms) for of in ARMS.values() for atoms in read_frames(last / of / "train.extxyz")}
    frames = [frame for frame in read(file) if identity(frame.atoms) not in seen]
    asked = [
        within(frame.atoms) if "centre" in frame.atoms.info else np.ones(len(frame.atoms), bool) for frame in frames
    ]
    for arm, of in ARMS.items():
        errors = [part[which] for part, which in zip(deviations(last / of, frames), asked, strict=True)]
        cells = np.array(["centre" in frame.atoms.info for frame in frames])
        values = [mean(errors, np.flatnonzero(which)) for which in (cells, ~cells)]
        print(f"{arm}, on {len(frames)} frames of {file.name}: sub-cells {values[0]:.0f}, others {values[1]:.0f} meV/Å")


def told(places: list[Path]) -> None:
    """Print errors on the test frames by family and of energies, and where the forces of the sub-cells are largest."""
    for place in places:
        for arm, of in ARMS.items():
            if (place / of / "errors.json").exists():
                test = json.loads((place / of / "errors.json").read_text())["test"]
                families = ", ".join(f"{name} {one['forces_mae']:.0f}" for name, one in test["family"].items())
                line = f"energy {test['all']['energy_mae']:.1f} meV/atom, forces: {families}"
                print(f"{place.name}, {arm}: {line}; rank correlation {test['rank_correlation']:.2f}")
    for arm, of in ARMS.items():
        frames = [atoms for place in places[1:] for atoms in read_frames(place / of / "labelled.extxyz")]
        seconds = sum(float(atoms.info.get("wall_s", 0.0)) for atoms in frames)
        count = sum(len(atoms) for atoms in frames)
        print(f"{arm}: {len(frames)} labels, {count} atoms in all, {seconds / 3600:.1f} h to compute them")
    labelled = [atoms for place in places for atoms in read_frames(place / "labelled.extxyz")]
    cells = [atoms for atoms in labelled if "centre" in atoms.info]
    sizes = np.array([largest(atoms) for atoms in cells])
    near = int((sizes[:, 0] >= sizes[:, 1]).sum())
    inside, outside = np.median(sizes, axis=0)
    print(
        f"{len(cells)} of {len(labelled)} are sub-cells; the largest DFT force is within the radius in {near}; median "
        f"{inside:.1f} eV/Å within and {outside:.1f} outside"
    )


def within(atoms: Atoms) -> np.ndarray:
    """Which atoms of a sub-cell lie within the radius that was asked about."""
    [radius] = re.findall(r"Subcell\(atom \d+ of \d+, ([\d.]+) Å\)", atoms.info["made_by"])
    return np.asarray(atoms.get_distances(int(atoms.info["centre"]), range(len(atoms)), mic=True) <= float(radius))


def largest(atoms: Atoms) -> tuple[float, float]:
    """Largest DFT force (eV/Å) of a sub-cell within its radius, and outside."""
    inside = within(atoms)
    sizes = np.linalg.norm(atoms.arrays["REF_forces"], axis=1)
    return float(sizes[inside].max()), float(sizes[~inside].max(initial=0.0))


def draw(curves: dict[str, dict[str, list[tuple[int, float]]]], path: Path) -> None:
    """Force errors of both arms against the number of labelled frames."""
    figure = Figure(figsize=(7.2, 3.4), layout="constrained")
    for axes, (name, of_arm) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        plots.bare(axes)
        for k, (arm, points) in enumerate(of_arm.items()):
            axes.plot(*zip(*points, strict=True), "o-", markersize=4, color=plots.COLOURS[k], label=arm)
        axes.set(title=f"test frames, {name}", xlabel="labelled frames", ylabel="forces MAE, meV/Å")
        axes.legend(frameon=False)
    plots.save(figure, path)


if __name__ == "__main__":
    main()
