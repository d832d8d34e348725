"""A campaign in seconds: copper and aluminium, a tiny linear potential, and EMT in DFT's place."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT

from finetune.backbones.ace import ACE
from finetune.labelling import Calculated
from finetune.learning import Campaign, Dynamics, Learning, Solved, Stop, Thresholds

ACE_SETTINGS: dict[str, Any] = {
    "elements": ["Al", "Cu"],
    "cutoff": 4.0,
    "nmax": [4],
    "lmax": [0],
    "functions": None,
    "core": {},
}


def crystal(kind: str, rattle: float, seed: int) -> Atoms:
    """Four or eight atoms: Cu, Al, or two layers of each."""
    if kind == "Cu|Al":
        atoms = bulk("Cu", a=3.8, cubic=True).repeat((1, 1, 2))
        atoms.numbers[4:] = 13
    else:
        atoms = bulk(kind, cubic=True)
    atoms.rattle(rattle, seed=seed)
    atoms.info = {"family": kind, "group": f"{kind}-{rattle}-{seed}"}
    return atoms


def labelled(atoms: Atoms) -> Atoms:
    """With EMT's energy, forces and stress."""
    work = atoms.copy()
    work.calc = EMT()
    found = atoms.copy()
    found.info |= {"REF_energy": work.get_potential_energy(), "REF_stress": work.get_stress()}
    found.arrays["REF_forces"] = work.get_forces()
    return found


def write_files(directory: Path) -> dict[str, str]:
    """Files of frames to begin with, to judge by, and of starts."""
    kinds = ("Cu", "Al", "Cu|Al")
    parts = {
        "train": [labelled(crystal(kind, 0.05, seed)) for kind in kinds[:2] for seed in range(3)],
        "valid": [labelled(crystal(kind, 0.15, 9)) for kind in kinds],
        "starts": [crystal(kind, 0.05, 20 + k) for k, kind in enumerate(("Cu", "Cu|Al", "Cu|Al"))],
    }
    for name, frames in parts.items():
        ase.io.write(directory / f"{name}.extxyz", frames, format="extxyz")
    return {name: str(directory / f"{name}.extxyz") for name in parts}


def campaign(files: dict[str, str], explorer: dict[str, Any] | None = None, **changes: Any) -> Campaign:
    """A small campaign, with some settings changed."""
    dynamics: dict[str, Any] = {
        "starts": [files["starts"]],
        "runs": 2,
        "ps": 0.06,
        "timestep_fs": 2.0,
        "every": 5,
        "temperatures_K": (600.0,),
        "thresholds": Thresholds(select=0.001, stop=20.0),
    }
    settings: dict[str, Any] = {
        "train": [files["train"]],
        "valid": [files["valid"]],
        "labeller": Calculated(calculator="ase.calculators.emt.EMT"),
        "explorer": Dynamics(**{**dynamics, **(explorer or {})}),
        "fit": [Solved(potential=ACE(**ACE_SETTINGS))],
        "members": 2,
        "batch": 3,
        "reactants": ("Cu", "Al"),
        "stop": Stop(generations=2),
    }
    return Campaign(**{**settings, **changes})


def learn(directory: Path, settings: Campaign) -> tuple[Learning, str, list[str]]:
    """The campaign after its end, why it ended, and what it told."""
    told: list[str] = []
    with ThreadPoolExecutor(1) as executor:
        learning = Learning(settings, directory, executor, told.append)
        return learning, learning.run(), told


def write_config(path: Path, files: dict[str, str], calculator: str = "ase.calculators.emt.EMT") -> Path:
    """The same campaign as a config of `finetune learn`."""
    labeller = {"class_path": "finetune.labelling.Calculated", "init_args": {"calculator": calculator}}
    thresholds = {"select": 0.001, "stop": 20.0}
    dynamics = {"starts": [files["starts"]], "runs": 2, "ps": 0.06, "timestep_fs": 2.0, "every": 5}
    dynamics |= {"temperatures_K": [600.0], "thresholds": thresholds}
    potential = {"class_path": "finetune.backbones.ace.ACE", "init_args": ACE_SETTINGS}
    content = {
        "train": files["train"],
        "valid": files["valid"],
        "labeller": labeller,
        "explorer": {"class_path": "finetune.learning.Dynamics", "init_args": dynamics},
        "fit": {"class_path": "finetune.learning.Solved", "init_args": {"potential": potential}},
        "members": 2,
        "batch": 3,
        "reactants": ["Cu", "Al"],
        "control": "candidates",
        "stop": {"generations": 2},
        "executor": {"class_path": "concurrent.futures.ThreadPoolExecutor", "init_args": {"max_workers": 1}},
    }
    path.write_text(yaml.safe_dump(content))
    return path


def answers(directory: Path) -> dict[str, list[np.ndarray]]:
    """Positions and forces of every label of every generation and arm, by file."""
    return {
        str(path.relative_to(directory)): [
            values
            for atoms in ase.io.read(path, ":", format="extxyz")
            for values in (atoms.numbers, atoms.positions, atoms.arrays["REF_forces"])
        ]
        for path in sorted(directory.glob("generation-*/**/labelled.extxyz"))
    }
