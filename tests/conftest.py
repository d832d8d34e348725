"""One thread, fixed seeds, shapes checked, nothing sent anywhere."""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["MPLBACKEND"] = "Agg"

from pathlib import Path

import ase.io
import jaxtyping
import numpy as np
import pytest
import torch
from ase import Atoms

# Shapes in annotations are checked at every call; subprocesses run without it.
jaxtyping.install_import_hook("finetune", "beartype.beartype")

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def rng() -> np.random.Generator:
    """The owner of a test's randomness."""
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def _smallest_of_each_family() -> list[Atoms]:
    frames = [atoms for path in sorted(ROOT.glob("data/starting/*.extxyz")) for atoms in ase.io.read(path, ":")]
    smallest: dict[str, Atoms] = {}
    for atoms in sorted(frames, key=len):
        smallest.setdefault(atoms.info["family"], atoms)
    return list(smallest.values())


@pytest.fixture
def interface_frames(_smallest_of_each_family: list[Atoms]) -> list[Atoms]:
    """The smallest DFT frame of each family of data/starting, with `REF_` labels; yours to change."""
    assert _smallest_of_each_family, "data/starting has no frames"
    return [atoms.copy() for atoms in _smallest_of_each_family]
