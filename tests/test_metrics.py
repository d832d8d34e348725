from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import Tensor

from finetune.metrics import Errors, errors, forces_cosine, forces_slope
from finetune.properties import Properties

SIZES = [2, 3, 4, 2]
N_ATOMS = torch.tensor(SIZES)
FAMILY = ["crystal", "melt", "crystal", "melt"]
NUMBERS = torch.tensor([3, 16, 3, 15, 16, 3, 3, 15, 16, 3, 3])


def properties(seed: int) -> Properties:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    return Properties(draw(4), draw(11, 3), draw(4, 3, 3))


def compare(predicted: Properties, labels: Properties, shift: bool = False) -> Errors:
    return errors(predicted, labels, N_ATOMS, FAMILY, NUMBERS, shift)


def test_errors_of_all_frames_are_those_of_numpy_in_thousandths() -> None:
    p, t = properties(1), properties(2)
    row = compare(p, t).all
    energy = (p.energy - t.energy).numpy() / np.array(SIZES)
    forces, stress = (p.forces - t.forces).numpy(), (p.stress - t.stress).numpy()
    assert row["energy_mae"] == pytest.approx(1e3 * abs(energy).mean())
    assert row["energy_rmse"] == pytest.approx(1e3 * energy.std(mean=0))
    assert row["forces_mae"] == pytest.approx(1e3 * abs(forces).mean())
    assert row["forces_rmse"] == pytest.approx(1e3 * np.sqrt((forces**2).mean()))
    assert row["stress_mae"] == pytest.approx(1e3 * abs(stress).mean())
    assert row["stress_rmse"] == pytest.approx(1e3 * np.sqrt((stress**2).mean()))


def test_unknown_labels_do_not_count() -> None:
    p, t = properties(1), properties(2)
    t.energy[0], t.forces[4, 1], t.stress[2] = torch.nan, torch.nan, torch.nan
    row = compare(p, t).all
    energy = ((p.energy - t.energy) / N_ATOMS).numpy()[1:]
    forces = np.delete((p.forces - t.forces).numpy().ravel(), 13)
    stress = (p.stress - t.stress).numpy()[[0, 1, 3]]
    assert row["energy_mae"] == pytest.approx(1e3 * abs(energy).mean())
    assert row["forces_mae"] == pytest.approx(1e3 * abs(forces).mean())
    assert row["stress_rmse"] == pytest.approx(1e3 * np.sqrt((stress**2).mean()))


def test_a_family_has_the_errors_of_its_frames_alone() -> None:
    p, t = properties(1), properties(2)
    result = compare(p, t)
    melt_atoms = [2, 3, 4, 9, 10]
    alone = errors(
        Properties(p.energy[1::2], p.forces[melt_atoms], p.stress[1::2]),
        Properties(t.energy[1::2], t.forces[melt_atoms], t.stress[1::2]),
        N_ATOMS[1::2],
        ["melt", "melt"],
        NUMBERS[melt_atoms],
    )
    assert result.family["melt"] == pytest.approx({"frames": 2, **alone.all})
    assert list(result.family) == ["crystal", "melt"]


def test_an_element_has_the_force_errors_of_its_atoms() -> None:
    p, t = properties(1), properties(2)
    result = compare(p, t)
    phosphorus = (p.forces - t.forces).numpy()[[3, 7]]
    assert list(result.element) == ["Li", "P", "S"]
    assert result.element["P"]["atoms"] == 2
    assert result.element["P"]["forces_mae"] == pytest.approx(1e3 * abs(phosphorus).mean())
    assert result.element["P"]["forces_rmse"] == pytest.approx(1e3 * np.sqrt((phosphorus**2).mean()))
    assert not any(name.startswith(("energy", "stress")) for name in result.element["P"])


def test_softened_forces_have_a_slope_below_one_and_the_right_direction() -> None:
    reference = np.random.default_rng(0).normal(size=(50, 3))
    assert forces_slope(0.6 * reference, reference) == pytest.approx(0.6)
    assert forces_cosine(0.6 * reference, reference) == pytest.approx(1.0)
    assert forces_cosine(-reference, reference) == pytest.approx(-1.0)


def test_slope_is_the_least_squares_line_through_the_origin() -> None:
    rng = np.random.default_rng(0)
    predicted, reference = rng.normal(size=(40, 3)), rng.normal(size=(40, 3))
    slope = np.linalg.lstsq(reference.reshape(-1, 1), predicted.ravel(), rcond=None)[0][0]
    assert forces_slope(predicted, reference) == pytest.approx(slope)


def test_cosine_leaves_out_atoms_whose_reference_force_is_small_or_unknown() -> None:
    reference = np.array([[1.0, 0, 0], [0.049, 0, 0], [np.nan, 1, 0], [0, 2, 0]])
    predicted = np.array([[2.0, 0, 0], [-9, 0, 0], [0, -5, 0], [3, 4, 0]])
    assert forces_cosine(predicted, reference) == pytest.approx((1.0 + 0.8) / 2)


def test_a_predicted_force_of_zero_has_cosine_zero() -> None:
    assert forces_cosine(np.zeros((1, 3)), np.ones((1, 3))) == 0.0


def test_energies_that_differ_by_one_energy_per_element_have_no_error_after_the_shift() -> None:
    t = properties(2)
    zero = {3: 1.3, 15: -7.0, 16: 250.0}
    per_atom = torch.tensor([zero[int(z)] for z in NUMBERS], dtype=torch.float64)
    offset = torch.stack([part.sum() for part in per_atom.split(SIZES)])
    p = Properties(t.energy + offset, t.forces, t.stress)
    assert compare(p, t, shift=True).all["energy_mae"] == pytest.approx(0.0, abs=1e-9)
    assert compare(p, t, shift=True).energy_shifted
    unshifted = compare(p, t)
    assert unshifted.all["energy_mae"] == pytest.approx(1e3 * (offset / N_ATOMS).abs().mean().item())
    assert not unshifted.energy_shifted


def test_nothing_known_is_nan_and_null_in_json() -> None:
    t = properties(2)
    t.stress[:], t.energy[:], t.forces[NUMBERS == 15] = torch.nan, torch.nan, torch.nan
    result = compare(properties(1), t, shift=True)
    assert np.isnan(result.all["stress_mae"])
    assert np.isnan(result.element["P"]["forces_slope"])
    text = json.loads(json.dumps(result.json(), allow_nan=False))
    assert text["all"]["stress_rmse"] is None
    assert text["all"]["energy_mae"] is None
    assert text["element"]["P"]["forces_cosine"] is None


def test_json_says_frames_units_and_whether_energies_were_shifted() -> None:
    text = compare(properties(1), properties(2)).json()
    assert text["frames"] == 4
    assert text["energy_shifted"] is False
    names = ["energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "stress_mae", "stress_rmse"]
    names += ["forces_slope", "forces_cosine"]
    assert set(text["all"]) == set(names) == set(text["units"])
    assert set(text["family"]["melt"]) == {*names, "frames"}
    assert text["units"]["energy_mae"] == "meV/atom"
    assert text["units"]["forces_rmse"] == "meV/Å"
    assert text["units"]["stress_mae"] == "meV/Å³"
