"""The levels of DFT in configs/label are as near to a converged calculation as their comments say."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune.labelling import Grid

ROOT = Path(__file__).parents[1]
LEVELS = {"training": 30.0, "reference": 8.0}  # forces, meV/Å rms


@pytest.fixture(scope="module")
def convergence():
    return runpy.run_path(str(ROOT / "notebooks/dft_convergence.py"))


@pytest.fixture(scope="module")
def results():
    return json.loads((ROOT / "data/convergence.json").read_text())


def config(level: str) -> dict:
    return yaml.safe_load((ROOT / f"configs/label/gpaw-{level}.yaml").read_text())["labeller"]["init_args"]


def test_two_levels_differ_in_their_k_points_alone():
    training, reference = config("training"), config("reference")
    assert training.pop("kpoints")["length_A"] < reference.pop("kpoints")["length_A"]
    assert training == reference


def force_errors(level: str, convergence: dict, results: dict) -> dict[str, float]:
    """Errors of a level, meV/Å rms, in the families with a reference of more k-points."""
    settings = config(level)
    kind = {"fermi-dirac": "FD", "marzari-vanderbilt": "MV"}[settings["settings"]["occupations"]["name"]]
    own = convergence["Setting"](
        settings["settings"]["mode"]["ecut"],
        kind,
        settings["settings"]["occupations"]["width"],
        settings["kpoints"]["length_A"],
        settings["kpoints"]["shift"],
    )
    errors = {}
    for name, atoms in convergence["frames"]().items():
        best = convergence["reference"](convergence["of_family"](name, results))
        record = results.get(convergence["key"](name, atoms, own))
        points = len(Grid(own.length_A, own.shift).points(atoms))
        if best is not None and record is not None and best.points > points:
            errors[name] = convergence["differences"](record, best.record)[0]
    return errors


@pytest.mark.parametrize("level", LEVELS)
def test_forces_of_a_level_are_within_its_noise_in_every_family_that_was_computed(
    level, convergence, results, monkeypatch
):
    monkeypatch.chdir(ROOT)
    errors = force_errors(level, convergence, results)
    assert errors, f"data/convergence.json has no {level} level beside a reference of more k-points"
    assert {name: error for name, error in errors.items() if error > LEVELS[level]} == {}


@pytest.mark.parametrize("level", LEVELS)
def test_the_error_of_a_level_is_its_distance_from_narrow_smearing_on_more_k_points(level, convergence, monkeypatch):
    """Made-up records: the level, a reference of more k-points, and others that are no reference of it."""
    monkeypatch.chdir(ROOT)
    name, atoms = next(iter(convergence["frames"]().items()))
    length = config(level)["kpoints"]["length_A"]
    setting = convergence["Setting"]

    def record(own, force):
        forces = np.full((len(atoms), 3), force).tolist()
        return {convergence["key"](name, atoms, own): {"energy": 0.0, "forces": forces, "stress": [0.0] * 6}}

    results = record(setting(smearing="MV", length_A=length), 0.0)
    assert force_errors(level, convergence, results) == {}
    results |= record(setting(width=0.025, length_A=length / 2), 0.9)  # fewer k-points
    results |= record(setting(width=0.1, length_A=3 * length), 0.8)  # wide smearing
    results |= record(setting(500, width=0.025, length_A=3 * length), 0.7)  # another cutoff
    assert force_errors(level, convergence, results) == {}
    results |= record(setting(width=0.025, length_A=3 * length), 0.031)
    assert force_errors(level, convergence, results) == {name: pytest.approx(31.0)}


def test_differences_are_root_mean_squares_in_milli_units(convergence):
    record = {"forces": np.zeros((2, 3)), "stress": np.zeros(6), "energy": 1.0}
    forces = np.array([[0.03, 0, 0], [0, -0.03, 0]])  # two of six components: 30 / sqrt(3) meV/Å
    other = {"forces": forces.tolist(), "stress": (np.ones(6) / 1e3).tolist(), "energy": 0.9}
    force, energy, stress = convergence["differences"](other, record)
    assert force == pytest.approx(30 / np.sqrt(3))
    assert energy == pytest.approx(-50)
    assert stress == pytest.approx(1)


def test_smearing_of_0_1_eV_is_not_converged_where_units_are_broken_and_0_05_eV_is_where_they_are_intact(
    convergence, results
):
    def error(name, smearing):
        grid = "2x2x2 + 0.25"
        one, other = (results[f"{name}; 400 eV; {s} eV; {grid}"] for s in (smearing, "FD 0.025"))
        return convergence["differences"](one, other)[0]

    assert error("Li7P3S11 packed 1500 K, 21 atoms", "FD 0.1") > 30
    assert error("Li7P3S11 units 600 K, 21 atoms", "FD 0.1") > 8
    assert error("Li7P3S11 units 600 K, 21 atoms", "FD 0.05") < 1
