from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from finetune.intervals import mean_interval
from finetune.metrics import Errors, errors, forces_cosine, forces_slope, paired
from finetune.properties import Properties
from finetune.references import Alignment

SIZES = [2, 3, 4, 2]
N_ATOMS = torch.tensor(SIZES)
FAMILY = ["crystal", "melt", "crystal", "melt"]
NUMBERS = torch.tensor([3, 16, 3, 15, 16, 3, 3, 15, 16, 3, 3])


def properties(seed: int) -> Properties:
    rng = np.random.default_rng(seed)

    def draw(*shape: int) -> Tensor:
        return torch.from_numpy(rng.normal(size=shape))

    return Properties(draw(4), draw(11, 3), draw(4, 3, 3))


def compare(predicted: Properties, labels: Properties, shift: Alignment | None = None) -> Errors:
    return errors(predicted, labels, N_ATOMS, FAMILY, NUMBERS, shift=shift)


def alignment(shift: list[float]) -> Alignment:
    return Alignment(np.array(shift), "other frames")


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


def test_an_alignment_is_added_to_the_predicted_energies() -> None:
    t = properties(2)
    offset = [1.3, -7.0, 250.0, 0.1]
    p = Properties(t.energy - torch.tensor(offset, dtype=torch.float64), t.forces, t.stress)
    assert compare(p, t, alignment(offset)).all["energy_mae"] == pytest.approx(0.0, abs=1e-9)
    assert compare(p, t, alignment(offset)).energy_shifted
    assert "other frames" in compare(p, t, alignment(offset)).alignment
    unshifted = compare(p, t)
    assert unshifted.all["energy_mae"] == pytest.approx(1e3 * np.mean(np.abs(offset) / np.array(SIZES)))
    assert not unshifted.energy_shifted


def test_a_frame_without_alignment_does_not_count_in_energies() -> None:
    p, t = properties(1), properties(2)
    row = compare(p, t, alignment([0.0, np.nan, 0.0, 0.0])).all
    error = ((p.energy - t.energy) / N_ATOMS).numpy()[[0, 2, 3]]
    assert row["energy_mae"] == pytest.approx(1e3 * np.abs(error).mean())
    assert row["forces_mae"] == compare(p, t).all["forces_mae"]


def forces_only(errors_: np.ndarray) -> tuple[Properties, Properties, Tensor, Tensor]:
    """Frames of two atoms, all of whose force components have the given error."""
    n = len(errors_)
    forces = torch.from_numpy(np.repeat(errors_, 6).reshape(2 * n, 3))
    known = Properties(torch.full((n,), torch.nan), torch.zeros(2 * n, 3), torch.full((n, 3, 3), torch.nan))
    predicted = Properties(torch.zeros(n), forces, torch.zeros(n, 3, 3))
    return predicted, known, torch.full((n,), 2), torch.full((2 * n,), 3)


@pytest.mark.parametrize("groups", [3, 6, 16])
def test_intervals_cover_the_true_error_in_about_95_of_100_data_sets(groups: int) -> None:
    """Each group has an error scale of its own, so its frames are no independent witnesses."""
    rng = np.random.default_rng(groups)
    covered, trials, frames = 0, 300, 4
    truth = np.exp(0.4**2 / 2) * np.sqrt(2 / np.pi)  # E|scale * normal|
    for _ in range(trials):
        scale = np.exp(0.4 * rng.normal(size=groups))
        low, high = mean_interval(
            np.abs(scale[:, None] * rng.normal(size=(groups, frames))).mean(axis=1), positive=True
        )
        covered += low <= truth <= high
    assert 0.89 < covered / trials < 0.99


@pytest.mark.parametrize("values", [[1.0, 2.0, 4.0], [3.0, 0.5, 1.0, 2.0, 2.5, 7.0, 1.5]])
def test_the_interval_of_a_plain_mean_is_that_of_student(values: list[float]) -> None:
    low, high = mean_interval(np.array(values))
    expected = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    assert (low, high) == pytest.approx(expected, rel=0.03, abs=0.03 * (high - low))  # 4000 resamples


def test_intervals_of_positive_errors_are_factors_and_weights_count() -> None:
    values, weights = np.array([1.0, 2.0, 40.0]), np.array([3.0, 1.0, 1.0])
    low, high = mean_interval(values, weights, positive=True)
    mean = (3.0 + 2.0 + 40.0) / 5
    assert low * high == pytest.approx(mean**2)
    assert 0 < low < mean < high
    assert mean_interval(values, weights)[0] < 0


def test_intervals_take_groups_and_not_frames_as_witnesses() -> None:
    rng = np.random.default_rng(0)
    error = np.repeat(np.exp(rng.normal(size=8)), 50)
    p, t, n, z = forces_only(error)
    by_group = errors(p, t, n, ["all"] * 400, z, np.repeat(np.arange(8), 50).astype(str).tolist()).all
    by_frame = errors(p, t, n, ["all"] * 400, z, np.arange(400).astype(str).tolist()).all
    width = [row["forces_mae_high"] - row["forces_mae_low"] for row in (by_group, by_frame)]
    assert width[0] > 4 * width[1]
    assert (by_group["groups"], by_frame["groups"]) == (8, 400)


def test_intervals_of_an_element_take_the_groups_of_its_atoms_as_witnesses() -> None:
    """Lithium in all frames: its row is that of the forces of all atoms; sulphur in the last two groups has none."""
    p, t, n, z = forces_only(np.repeat(np.exp(np.random.default_rng(0).normal(size=8)), 5))
    groups = np.repeat(np.arange(8), 5).astype(str).tolist()
    result = errors(p, t, n, ["all"] * 40, z, groups)
    for name in ("groups", "forces_mae", "forces_mae_low", "forces_mae_high", "forces_rmse_high"):
        assert result.element["Li"][name] == pytest.approx(result.all[name])
    z[-20:] = 16
    sulphur = errors(p, t, n, ["all"] * 40, z, groups).element["S"]
    assert sulphur["groups"] == 2
    assert "forces_mae_low" not in sulphur


def test_two_groups_have_no_interval() -> None:
    result = errors(properties(1), properties(2), N_ATOMS, FAMILY, NUMBERS, ["a", "a", "b", "b"])
    assert result.all["groups"] == 2
    assert "forces_mae_low" not in result.all


def test_a_group_of_two_families_is_one_witness() -> None:
    result = errors(properties(1), properties(2), N_ATOMS, FAMILY, NUMBERS, ["a", "a", "b", "c"])
    assert result.all["groups"] == 3
    assert result.family["crystal"]["groups"] == 2
    assert {(one.family, one.group) for one in result.by_group} == {
        ("crystal", "a"),
        ("melt", "a"),
        ("crystal", "b"),
        ("melt", "c"),
    }


def test_paired_errors_share_their_groups() -> None:
    """An error of 0.66 times the other in every group has a ratio without scatter, however the groups differ."""
    rng = np.random.default_rng(0)
    error = np.repeat(np.exp(rng.normal(size=8)), 3)
    names = np.repeat(np.arange(8), 3).astype(str).tolist()
    results = []
    for factor in (1.0, 0.66):
        p, t, n, z = forces_only(factor * error)
        results.append(errors(p, t, n, ["all"] * 24, z, names))
    same, less = paired(results[0], results[0], "forces_mae"), paired(*results, "forces_mae")
    assert same.difference_interval == (0.0, 0.0)
    assert not same.distinguishable
    assert less.ratio_interval == pytest.approx((0.66, 0.66))
    assert less.distinguishable
    assert less.difference == pytest.approx(-0.34 * results[0].all["forces_mae"])
    assert less.groups == 8


def test_paired_errors_of_a_family_are_those_of_its_frames_alone() -> None:
    rng = np.random.default_rng(1)
    sizes, families = np.exp(rng.normal(size=16)), ["crystal", "melt"] * 8
    names = np.repeat(np.arange(8), 2).astype(str).tolist()
    whole, alone = [], []
    for scale in (1.0, np.where(np.arange(16) % 2, 0.5, 2.0)):
        p, t, n, z = forces_only(scale * sizes)
        whole.append(errors(p, t, n, families, z, names))
        p, t, n, z = forces_only((scale * sizes)[1::2])
        alone.append(errors(p, t, n, ["melt"] * 8, z, names[1::2]))
    of_family = paired(*whole, "forces_mae", "melt")
    assert of_family == paired(*alone, "forces_mae")
    assert of_family.ratio_interval == pytest.approx((0.5, 0.5))


def test_errors_come_back_from_their_json() -> None:
    result = errors(properties(1), properties(2), N_ATOMS, FAMILY, NUMBERS, ["a", "b", "c", "c"])
    back = Errors.from_json(json.loads(json.dumps(result.json())))
    assert back.all == result.all
    assert back.element == result.element
    assert paired(back, result, "forces_rmse").difference_interval == (0.0, 0.0)


def test_errors_of_an_older_version_come_back_without_groups() -> None:
    content = {"all": {"forces_mae": 1.0}, "family": {}, "element": {}, "frames": 1, "energy_shifted": True}
    back = Errors.from_json(content)
    assert back.energy_shifted
    assert np.isnan(paired(back, back, "forces_mae").difference_interval[0])


def test_nothing_known_is_nan_and_null_in_json() -> None:
    t = properties(2)
    t.stress[:], t.energy[:], t.forces[NUMBERS == 15] = torch.nan, torch.nan, torch.nan
    result = compare(properties(1), t)
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
