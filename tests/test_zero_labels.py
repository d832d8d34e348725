"""Forces that are exactly zero, and gradients in the place of forces, are named by every command that compares."""

from __future__ import annotations

import warnings
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule

from finetune import models
from finetune.backbones.chgnet import CHGNet
from finetune.comparison import Errors, compare
from finetune.data.frames import Frame
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.data.zeros import forces_vanish, zero_forces
from finetune.doctor.contents import label_keys, plain_units
from finetune.errors import InputError

from .commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS
ZERO = "forces are exactly 0 in 3 of 3 frames, first frame 0 of"


def rattled(rng: np.random.Generator, count: int = 3, **arrays: float) -> list[Atoms]:
    """Rattled crystals with energies, and arrays that are random times a factor."""
    frames = []
    for k in range(count):
        atoms = bulk("LiS", "rocksalt", a=5.2, cubic=True)
        atoms.rattle(0.1, rng=rng)
        atoms.info |= {"REF_energy": -3.0 * len(atoms) - 0.1 * k, "group": f"g{k}"}
        atoms.arrays |= {name: factor * rng.normal(size=(len(atoms), 3)) for name, factor in arrays.items()}
        frames.append(atoms)
    return frames


@pytest.fixture
def zeros(rng: np.random.Generator, tmp_path: Path) -> Path:
    ase.io.write(tmp_path / "zeros.extxyz", rattled(rng, REF_forces=0.0), format="extxyz")
    return tmp_path / "zeros.extxyz"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    models.save(CHGNet.tiny(), path)
    return path


def test_evaluate_and_calibrate_name_forces_of_exactly_zero(zeros: Path, model: Path, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=ZERO):
        assert command("evaluate", model, zeros) == 0
    with pytest.warns(UserWarning, match=ZERO):
        command("calibrate", model, zeros, "--output", tmp_path / "c.pt")


def test_compare_and_doctor_name_forces_of_exactly_zero(zeros: Path, model: Path, tmp_path: Path) -> None:
    found = compare({"own": str(model)}, [Errors(files=[str(zeros)])], tmp_path / "c", progress=False, computed=False)
    assert ZERO in found.warnings["Errors on labelled frames", "own"]
    (finding,) = [one for one in plain_units(read(zeros)) if one.check == "forces labels"]
    assert finding.verdict == "warning"
    assert ZERO in finding.words


def test_forces_that_symmetry_makes_zero_are_sound(rng: np.random.Generator) -> None:
    sound = [bulk("Li"), bulk("LiS", "rocksalt", 5.2), bulk("LiS", "rocksalt", 5.2, cubic=True) * (2, 1, 1)]
    sound += [bulk("ZnS", "zincblende", 5.4), bulk("Mg")]  # Mg: hexagonal, each atom on a site of symmetry -6m2
    wurtzite = bulk("ZnS", "wurtzite", 3.8, 6.2)  # polar: forces along the axis are possible
    assert [forces_vanish(atoms) for atoms in sound] == [True] * len(sound)
    assert [forces_vanish(atoms) for atoms in (wurtzite, molecule("H2O"), *rattled(rng))] == [False] * 5
    frames = [Frame(a, {"forces": np.zeros((len(a), 3))}, "x", k, "x", "x") for k, a in enumerate(sound)]
    assert zero_forces(frames) == ""


@pytest.mark.parametrize("key", ["gradient", "gradients", "energy_gradient"])
def test_a_gradient_beside_energies_is_named_with_its_sign(key: str, rng: np.random.Generator, tmp_path: Path) -> None:
    path = tmp_path / "gradients.extxyz"
    ase.io.write(path, rattled(rng, **{key: 1.0}), format="extxyz")
    words = f"no forces are read in 3 of 3 frames, but they have {key}; forces are minus the gradient: store -{key}"
    with pytest.warns(UserWarning, match=words):
        frames = read(path)
    (finding,) = [one for one in label_keys(frames, LabelKeys()) if one.check == "forces labels"]
    assert f"3 of 3 frames have {key}, a gradient" in finding.words
    assert "minus the gradient" in finding.remedy
    assert "--keys.forces" not in finding.remedy
    with pytest.warns(UserWarning, match="a gradient is read as forces, with the sign that it has"):
        read(path, LabelKeys(forces=key))


def test_a_gradient_beside_forces_is_no_reason_for_a_warning(rng: np.random.Generator, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "both.extxyz", rattled(rng, gradient=1.0, REF_forces=1.0), format="extxyz")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read(tmp_path / "both.extxyz")


def test_a_file_with_gradients_alone_is_refused_with_the_sign(rng: np.random.Generator, tmp_path: Path) -> None:
    frames = rattled(rng, gradients=1.0)
    for atoms in frames:
        del atoms.info["REF_energy"]
    ase.io.write(tmp_path / "alone.extxyz", frames, format="extxyz")
    with pytest.raises(InputError, match="forces are minus the gradient: store -gradients as forces"):
        read(tmp_path / "alone.extxyz")
