"""What every potential promises as software: rebuilt, copied, sent to processes, and nothing changed by its use."""

from __future__ import annotations

import copy
import json
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress

from finetune import models
from finetune.adapting import group_of
from finetune.calculators import calculator
from finetune.errors import InputError
from finetune.potential import Potential

from .contract import ALL, DOUBLE, built, predict, predict_graph, same
from .structures import ROOT, lithium, of_family
from .tolerances import close


@pytest.fixture(params=DOUBLE)
def double(request: pytest.FixtureRequest) -> Potential:
    """Each potential, in double precision."""
    return built(request.param)


@pytest.fixture(params=ALL)
def potential(request: pytest.FixtureRequest) -> Potential:
    """Each potential, the foundations also in single precision."""
    return built(request.param)


def test_config_and_weights_rebuild_the_potential(potential):
    config = json.loads(json.dumps(potential.config()))
    again = models.build(config).to(potential.dtype)
    again.load_state_dict(potential.state_dict())
    again.eval()
    for name, value in predict(potential, of_family("interface")).known().items():
        assert torch.equal(getattr(predict(again, of_family("interface")), name), value)
    assert again.config() == potential.config()
    assert (again.cutoff, again.elements, again.groups) == (potential.cutoff, potential.elements, potential.groups)


def test_a_potential_is_not_changed_by_being_used(potential):
    atoms = of_family("interface")
    graph = potential.collate([potential.graph(atoms), potential.graph(lithium())])
    kept = {key: value.clone() for key, value in graph.items()}
    first = predict_graph(potential, graph)
    numbers = {name: value.clone() for name, value in first.known().items()}
    second = predict_graph(potential, graph)
    assert all(torch.equal(graph[key], kept[key]) for key in kept)
    assert all(torch.equal(second.known()[name], value) for name, value in numbers.items())
    assert all(torch.equal(first.known()[name], value) for name, value in numbers.items())


def test_a_graph_does_not_follow_its_atoms(potential):
    atoms = lithium()
    graph = potential.graph(atoms)
    kept = {key: value.clone() for key, value in graph.items()}
    atoms.positions += 1.0
    atoms.set_cell(atoms.cell.array * 2)
    atoms.numbers[:] = 16
    assert all(torch.equal(graph[key], kept[key]) for key in kept)


def test_training_and_evaluation_predict_the_same(potential):
    evaluated = predict(potential, of_family("interface"))
    graph = potential.collate([potential.graph(of_family("interface"))])
    try:
        trained = potential.train()(graph)
    finally:
        potential.eval()
    assert trained.forces.requires_grad
    assert trained.stress.requires_grad
    assert not evaluated.forces.requires_grad
    of_weights = {"gamma", "forces_error"}  # grades and calibration do not outlive a step of training
    assert set(evaluated.known()) - set(trained.known()) <= of_weights
    for name, value in trained.known().items():
        close(value, evaluated.known()[name], same(potential))


def test_a_loss_on_forces_and_stress_reaches_every_group(double):
    graph = double.collate([double.graph(of_family("amorphous"))])
    try:
        predicted = double.train()(graph)
        (predicted.forces.square().sum() + predicted.stress.square().sum()).backward()
        moved_by = {name for name, p in double.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    finally:
        double.eval().zero_grad(set_to_none=True)
    assert {group_of(double, name) for name in moved_by} >= set(double.groups)


def test_every_parameter_belongs_to_one_group_at_most(potential):
    for name, _ in potential.named_parameters():
        hits = [group for group, prefixes in potential.groups.items() if name.startswith(prefixes)]
        assert len(hits) <= 1, name
    assert "readouts" in potential.groups
    trainable = {group_of(potential, name) for name, p in potential.named_parameters() if p.requires_grad}
    assert trainable == set(potential.groups)


def test_unknown_elements_are_named(potential):
    with pytest.raises(InputError, match="does not know Og"):
        potential.graph(Atoms("LiOg", [[0, 0, 0], [0, 0, 3]]))


@pytest.mark.parametrize(
    ("atoms", "words"),
    [
        (Atoms("Li2", [[0, 0, 0], [0, 0, 1e-5]]), "on top of each other"),
        (Atoms("Li2", [[0, 0, 0], [0, 0, 5.0 - 1e-6]], cell=[5, 5, 5], pbc=True), "on top of each other"),
        (Atoms("Li2", [[0, 0, 0], [0, 0, 3]], cell=[[5, 0, 0], [5, 0, 0], [0, 0, 5]], pbc=True), "zero volume"),
        (Atoms("Li2", [[0, 0, 0], [0, 0, np.nan]]), "not finite"),
    ],
)
def test_impossible_structures_are_refused(potential, atoms, words):
    with pytest.raises(InputError, match=words):
        potential.graph(atoms)


@pytest.mark.filterwarnings("ignore:.torch.jit.(save|load). is deprecated")
def test_calculators_are_copied_and_pickled_whole(potential):
    atoms = of_family("interface")
    ours = calculator(potential, device="cpu")
    expected = ours.get_potential_energy(atoms), ours.get_forces(atoms)
    for other in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        other.reset()
        assert other.get_potential_energy(atoms) == expected[0]
        assert np.array_equal(other.get_forces(atoms), expected[1])


@pytest.mark.filterwarnings("ignore:.torch.jit.(save|load). is deprecated")
def test_calculators_work_in_another_process():
    atoms = {name: of_family("interface") for name in models.backbones()}
    for name, frame in atoms.items():
        frame.calc = calculator(built(name), device="cpu")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        forces = {name: pool.submit(frame.get_forces) for name, frame in atoms.items()}
        there = {name: future.result(timeout=120) for name, future in forces.items()}
    for name, frame in atoms.items():
        close(there[name], frame.get_forces(), "identity, float64")


GLOBALS = """
import logging, os, random, sys
import finetune
assert "torch" not in sys.modules, "importing finetune imports torch"
import numpy as np, torch
from ase.build import bulk
from ase.calculators.calculator import Calculator

def state():
    return {
        "environment": dict(os.environ),
        "default dtype": torch.get_default_dtype(),
        "base calculator": {k: repr(v) for k, v in vars(Calculator).items()},
        "numpy random": repr(np.random.get_state()),
        "python random": random.getstate(),
        "matmul": torch.get_float32_matmul_precision(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "threads": torch.get_num_threads(),
        "logging": (logging.root.level, logging.root.manager.disable, list(logging.root.handlers)),
        "grad": torch.is_grad_enabled(),
        "errors": np.geterr(),
        "directory": os.getcwd(),
    }

before = state()
from finetune import models
for name in models.backbones():
    tiny = models.backbone(name).tiny()
    atoms = bulk("Li", cubic=True)
    atoms.calc = finetune.calculator(tiny, device="cpu")
    atoms.rattle(0.1, seed=1)
    atoms.get_forces()
    atoms.calc = finetune.calculator(tiny, device="cpu", dtype="float32")
    atoms.get_stress()
after = state()
changed = [key for key in before if before[key] != after[key]]
assert not changed, {key: (before[key], after[key]) for key in changed}
"""


def test_importing_and_using_the_package_changes_nothing_global(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", GLOBALS], capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout == ""


def test_voigt_stress_of_the_calculator_is_the_stress_of_the_potential(double):
    atoms = of_family("interface")
    atoms.calc = calculator(double, device="cpu")
    close(voigt_6_to_full_3x3_stress(atoms.get_stress()), predict(double, atoms).stress[0], "identity, float64")
