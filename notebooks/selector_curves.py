"""Labels that each selector needs for a fixed force error, against random choice, with a teacher in DFT's place.

Run from the top of the repository; what is there already is not done again:

    python notebooks/selector_curves.py

The pool is what unguided dynamics give: 360 frames of four crystals at 300 K, most of them alike, and 40 frames of Li |
Li-P-S interfaces at 900 K. The start is 8 crystal frames. Errors are measured on 48 frames of other trajectories, half
of them crystals and half interfaces. `mace:mini` has run the dynamics and is the teacher.
"""

# %%
import argparse
import json
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import torch
from ase import Atoms
from matplotlib.figure import Figure
from tqdm import tqdm

import finetune
from finetune import plots
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.cli.sample import as_reference
from finetune.data import batching
from finetune.data.frames import Frame
from finetune.files import write_frames, write_text
from finetune.labelling.core import Labeller, Outcome
from finetune.labelling.store import identity
from finetune.learning import (
    KDPP,
    Batch,
    Campaign,
    FarthestPoints,
    Learning,
    MaxVol,
    Pool,
    Random,
    Selector,
    Solved,
    Stop,
    Thresholds,
    Top,
)
from finetune.learning.refitting import Job, Resampled
from finetune.potential import Potential
from finetune.sampling import Context, Dynamics, Limits
from finetune.sampling.crystals import primitive, repeated
from finetune.training.closed_form import NormalEquations, solve, take_up

RUNS = Path("runs/selectors")
RESULTS = Path("docs/figures/selectors")  # a file for each run, kept with the project
STRUCTURES = Path("data/structures/materials_project")
CRYSTALS = ("Li_mp-135-r2SCAN", "Li2S_mp-1153-r2SCAN", "Li3P_mp-736-r2SCAN", "Li3PS4_mp-985583-r2SCAN")
INTERFACES = Path("data/campaign/structures/interfaces.extxyz")
REACTANTS = ("Li", "Li7P3S11")
SELECTORS: dict[str, Selector] = {
    "random": Random(apart=0.0),
    "batch": Batch(),
    "top": Top(),
    "farthest": FarthestPoints(),
    "maxvol": MaxVol(),
    "k-dpp": KDPP(),
}
START, BATCH, LABELS = 8, 8, 48
RANDOM_BATCH, RANDOM_LABELS = 24, 144
FRAMES: dict[str, Frame] = {}


# %%
def trajectories(kind: str, starts: Sequence[Atoms], dynamics: Dynamics, seed: int) -> list[Atoms]:
    """Labelled snapshots of dynamics from each start, by the teacher."""
    calculator, frames = finetune.calculator("mace:mini", device="cpu"), []
    for k, start in enumerate(tqdm(starts, desc=kind)):
        start.info = {"group": f"{kind}-{seed}-{k}", "made_by": kind}
        context = Context(np.random.default_rng([seed, k]), calculator, Limits())
        for snapshot in dynamics.frames([start], context):
            if context.limits.reason(snapshot) is None:
                frame = as_reference(snapshot)
                frame.info |= {"family": kind, "wall_s": 1.0}
                frames.append(frame)
    return frames


def make_data() -> None:
    """Pool, start and validation frames, each file once."""
    crystals = [repeated(primitive(ase.io.read(STRUCTURES / f"{name}.cif")), 12) for name in CRYSTALS]
    small = [atoms for atoms in ase.io.read(INTERFACES, ":") if len(atoms) <= 32]
    order = np.random.default_rng(0).permutation(len(small))
    interfaces = [small[k] for k in order]
    still = {"temperature_K": (300.0, 300.0), "skip": 60}
    hot = {"temperature_K": (900.0, 900.0), "skip": 40}
    files = {
        "pool": (
            (crystals, Dynamics(steps=180, every=2, **still), 1),
            (interfaces[:10], Dynamics(steps=160, every=40, **hot), 2),
        ),
        "start": ((crystals, Dynamics(steps=60, every=5, **still), 3),),
        "valid": (
            (crystals, Dynamics(steps=60, every=10, **still), 4),
            (interfaces[10:18], Dynamics(steps=120, every=40, **hot), 5),
        ),
    }
    for name, parts in files.items():
        if not (RUNS / f"{name}.extxyz").exists():
            kinds = ("crystal", "interface")
            frames = [trajectories(kind, *part) for kind, part in zip(kinds, parts, strict=False)]
            write_frames(RUNS / f"{name}.extxyz", [atoms for part in frames for atoms in part])


# %%
@cache
def answers() -> dict[str, Atoms]:
    """The teacher's labels of the pool, by structure."""
    return {identity(atoms): atoms for atoms in ase.io.read(RUNS / "pool.extxyz", ":")}


@dataclass(frozen=True)
class Known(Labeller):
    """Looks up what the teacher has said."""

    def method(self) -> dict[str, Any]:
        return {"calculator": "mace:mini"}

    def check(self) -> None:
        pass

    def label(self, atoms: Atoms) -> Outcome:
        known = answers()[identity(atoms)].copy()
        known.info |= {"label_method": self.method_hash(), **{k: v for k, v in atoms.info.items() if k != "REF_energy"}}
        return Outcome(known)


@cache
def equations(frame: str) -> NormalEquations:
    """The normal equations of one frame, by the hash of its structure; many fits see the same frames."""
    potential = Shifted(potential_of_members())
    graph = potential.collate([potential.graph(FRAMES[frame].atoms)])
    found = NormalEquations(potential)
    found.add(batching.Batch(graph, FRAMES[frame].labels, torch.tensor([0])))
    return found


@dataclass(frozen=True, kw_only=True)
class Remembered(Solved):
    """What `Solved` does, without working out the functions of a frame again in every fit."""

    def fitted(self, job: Job) -> Potential:
        potential = Shifted(potential_of_members())
        total = NormalEquations(potential)
        for frame in Resampled(job, self.bootstrap).frames("train"):
            FRAMES[frame.structure_hash] = frame
            part = equations(frame.structure_hash)
            for term in total.square:
                total.square[term] += part.square[term]
                total.right[term] += part.right[term]
                total.labels[term] += part.labels[term]
                total.counts[term] += part.counts[term]
        take_up(potential, solve(total, None, self.loss, self.solve))
        return potential


def potential_of_members() -> ACE:
    """A small linear expansion, 81 functions per element."""
    return ACE(["Li", "P", "S"], cutoff=4.5, nmax=[6, 2], lmax=[0, 2], functions=None, core={})


def campaign(name: str, seed: int) -> Campaign:
    """A campaign by one selector; random choice looks at no more of the pool than it draws from."""
    by_chance = name == "random"
    return Campaign(
        train=[str(RUNS / "start.extxyz")],
        valid=[str(RUNS / "valid.extxyz")],
        fraction=START / len(ase.io.read(RUNS / "start.extxyz", ":")),
        labeller=Known(),
        explorer=Pool(
            files=[str(RUNS / "pool.extxyz")],
            part=RANDOM_BATCH if by_chance else 100,
            thresholds=Thresholds(select=0.0, stop=1e9),
        ),
        fit=[Remembered(potential=potential_of_members())],
        members=3,
        selector=SELECTORS[name],
        batch=RANDOM_BATCH if by_chance else BATCH,
        reactants=REACTANTS,
        stop=Stop(labels=RANDOM_LABELS if by_chance else LABELS, generations=40),
        seed=seed,
    )


def run(name: str, seed: int) -> None:
    """One campaign, kept as one JSON file: labels and errors of each generation, and how many were interfaces."""
    path = RESULTS / f"{name}-{seed}.json"
    if path.exists():
        return
    with ThreadPoolExecutor(1) as executor:
        learning = Learning(campaign(name, seed), RUNS / f"{name}-{seed}", executor, tell=lambda text: None)
        learning.run()
    history = learning.history(len(list(learning.directory.glob("generation-*"))) - 1)
    labelled = ase.io.read(learning.place(history[-1].generation) / "train.extxyz", ":")
    new = [atoms for atoms in labelled if atoms.info["generation"] > 0]
    interfaces = [
        sum(a.info["family"] == "interface" for a in new if a.info["generation"] <= k.generation) for k in history
    ]
    content = {
        "labels": [one.labels for one in history],
        "forces_rmse": [one.forces_rmse for one in history],
        "interfaces": interfaces,
    }
    write_text(path, json.dumps(content, indent=1) + "\n")
    shutil.rmtree(learning.directory)


# %%
def curve(contents: Sequence[dict[str, list[float]]], grid: np.ndarray) -> np.ndarray:
    """Geometric mean over campaigns of the force error, meV/Å, at numbers of new labels."""
    logs = [np.interp(grid, content["labels"], np.log(content["forces_rmse"])) for content in contents]
    return np.exp(np.mean(logs, axis=0))


def needed(contents: Sequence[dict[str, list[float]]], target: float) -> float:
    """New labels from which on the mean error stays at or below the target; infinity if it never does."""
    grid = np.arange(0, min(content["labels"][-1] for content in contents) + 1)
    above = np.flatnonzero(curve(contents, grid) > target)
    if not len(above):
        return 0.0
    return float(above[-1] + 1) if above[-1] < grid[-1] else np.inf


def ratio(contents: list[Any], chance: list[Any], target: float) -> tuple[float, float, float]:
    """Labels needed over those of random choice, and the 95 % interval of 2000 bootstraps over the seeds of both."""
    rng, found = np.random.default_rng(0), []
    for _ in range(2000):
        one, other = ([of[k] for k in rng.integers(len(of), size=len(of))] for of in (contents, chance))
        count, others = needed(one, target), needed(other, target)
        found.append(count / others if np.isfinite(others) else 0.0 if np.isfinite(count) else 1.0)
    low, high = np.quantile(found, [0.025, 0.975], method="nearest")
    return needed(contents, target) / needed(chance, target), float(low), float(high)


def tell(seeds: int) -> None:
    """The table and the figure for the documentation."""
    paths = {name: [RESULTS / f"{name}-{seed}.json" for seed in range(seeds)] for name in SELECTORS}
    found = {name: [json.loads(p.read_text()) for p in of if p.exists()] for name, of in paths.items()}
    found = {name: contents for name, contents in found.items() if len(contents) == seeds}  # no half rows
    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    plots.bare(axes)
    for k, (name, contents) in enumerate(found.items()):
        grid = np.arange(0, min(content["labels"][-1] for content in contents) + 1, BATCH)
        logs = [np.interp(grid, content["labels"], np.log(content["forces_rmse"])) for content in contents]
        spread = np.exp([np.min(logs, axis=0), np.max(logs, axis=0)])
        axes.plot(grid, curve(contents, grid), "o-", markersize=4, color=plots.COLOURS[k], label=name)
        axes.fill_between(grid, *spread, color=plots.COLOURS[k], alpha=0.1, linewidth=0)
    axes.set(xlabel="new labels", ylabel="forces RMSE, meV/Å", yscale="log")
    axes.legend(frameon=False)
    plots.save(figure, "docs/figures/selectors.png")
    for at in (48, 96, 128):
        target = float(curve(found["random"], np.array([at]))[0])
        print(f"\ntarget {target:.0f} meV/Å, the mean error of random choice with {at} labels")
        print("| selector | seeds | labels needed | over random (95 %) | meV/Å with 24, 48 labels | interfaces of 48 |")
        print("|---|---|---|---|---|---|")
        for name, contents in found.items():
            count, (share, low, high) = needed(contents, target), ratio(contents, found["random"], target)
            early, late = curve(contents, np.array([24, 48]))
            interfaces = np.mean([np.interp(48, content["labels"], content["interfaces"]) for content in contents])
            words = f"{share:.2f} ({low:.2f} to {high:.2f})"
            print(f"| {name} | {len(contents)} | {count:.0f} | {words} | {early:.0f}, {late:.0f} | {interfaces:.0f} |")


# %%
def main() -> None:
    """Data, all campaigns, table and figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(SELECTORS), help="selectors to run")
    parser.add_argument("--tell", action="store_true", help="table and figure of what is there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if not arguments.tell:
        make_data()
        for name in arguments.only:
            for seed in range(arguments.seeds):
                run(name, seed)
                print(f"{name}, seed {seed}: done", flush=True)
    tell(arguments.seeds)


if __name__ == "__main__":
    main()
