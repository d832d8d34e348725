"""What an untuned potential does to an interface (phases separate, voids open, atoms fly), and that it is caught."""

from __future__ import annotations

from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from torch import Tensor

from finetune.calculators import PotentialCalculator
from finetune.graph import Graph, edge_vectors
from finetune.md import GUARDS, Ballistic, Langevin, Output, PhaseSeparation, Stage, TooClose, TooHot, Voids, simulate
from finetune.potential import Potential

from .structures import ROOT

BOND = 2.1  # Å, much shorter than in the crystal
HOT = Langevin(temperature_K=600.0, friction_per_fs=0.02, timestep_fs=2.0)


class Segregating(Potential):
    """A Morse potential in which every element binds to itself only, and harder than it should: bad on purpose.

    Args:
        repulsive: atoms closer than their bond repel; without it they fall into each other.
    """

    elements = frozenset({3, 15, 16})
    cutoff = 6.0

    def __init__(self, repulsive: bool = True) -> None:
        super().__init__()
        self.repulsive = repulsive
        self.depth = torch.nn.Parameter(torch.tensor(0.35, dtype=torch.float64))

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor, None]:
        per_atom = self.depth * self._wells(graph)
        return per_atom.sum()[None], per_atom, None

    def _wells(self, graph: Graph) -> Tensor:
        i, j = graph["edge_index"]
        r = graph["vectors"].norm(dim=1)
        alike = graph["numbers"][i] == graph["numbers"][j]
        wall = torch.exp(-2 * 1.5 * (r - BOND))
        well = torch.where(alike, -2 * torch.exp(-1.5 * (r - BOND)), torch.zeros_like(r))
        smooth = (1 - (r / self.cutoff) ** 2) ** 3
        pairs = ((wall if self.repulsive else 0) + well) * smooth / 2
        return pairs.new_zeros(len(graph["numbers"])).index_add(0, i, pairs)

    def descriptors(self, graph: Graph) -> Tensor:
        return self._wells({**graph, "vectors": edge_vectors(graph)})[:, None]

    def config(self) -> dict[str, Any]:
        return {"class_path": "tests.Segregating", "init_args": {}}

    @classmethod
    def tiny(cls) -> Segregating:
        return cls()


@pytest.fixture(scope="module")
def electrolyte() -> Atoms:
    """Li7P3S11, 84 atoms, stretched by a tenth in volume."""
    atoms = ase.io.read(ROOT / "data/structures/materials_project/Li7P3S11_mp-641703-GGA.cif").repeat((2, 1, 1))
    atoms = Atoms(atoms.numbers, atoms.positions, cell=atoms.cell, pbc=True)
    atoms.set_cell(atoms.cell * 1.1 ** (1 / 3), scale_atoms=True)
    return atoms


def run(electrolyte: Atoms, directory, guards, repulsive: bool = True, ps: float = 4.0):
    atoms = electrolyte.copy()
    atoms.calc = PotentialCalculator(Segregating(repulsive), device="cpu")
    return simulate(atoms, [Stage(HOT, ps=ps)], directory, guards, Output(every=250), progress=False), atoms


@pytest.mark.parametrize("guard", [Voids(every=25), PhaseSeparation(every=25)])
def test_voids_and_separating_phases_of_a_bad_potential_are_caught(guard, electrolyte, tmp_path):
    outcome, _ = run(electrolyte, tmp_path, [guard])
    assert outcome.alarm is not None
    assert outcome.alarm.guard == type(guard).__name__
    assert 0 < outcome.steps < 2000
    for name in ("before", "after"):
        assert (tmp_path / f"{name}.extxyz").is_file()


@pytest.mark.parametrize("guard", [TooClose(every=1), Ballistic(), TooHot()])
def test_atoms_that_fall_into_each_other_are_caught_at_once(guard, electrolyte, tmp_path):
    outcome, atoms = run(electrolyte, tmp_path, [guard], repulsive=False)
    assert outcome.alarm is not None
    assert outcome.time_ps < 1.0
    if isinstance(guard, TooClose):
        first, second = outcome.alarm.atoms
        assert atoms.get_distance(first, second, mic=True) < 2.0


def test_the_usual_guards_catch_it_before_it_has_gone_far(electrolyte, tmp_path):
    outcome, _ = run(electrolyte, tmp_path, GUARDS)
    assert outcome.alarm is not None
    frames = ase.io.read(tmp_path / "before.extxyz", ":")
    assert np.isfinite(frames[0].positions).all()
