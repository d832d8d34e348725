"""Parts share no group, do not depend on order, and stay as they are when data is added."""

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms

from finetune.data.frames import Frame, data_hash, hash_fraction
from finetune.data.reading import read
from finetune.data.splitting import PARTS, check_disjoint, split, subset
from finetune.errors import InputError

FOLDER = Path(__file__).parents[1] / "data" / "starting"


def synthetic(groups, per_group=3, seed=0):
    rng = np.random.default_rng(seed)
    return [
        Frame(Atoms("Li2", positions=rng.normal(size=(2, 3))), {"energy": float(g)}, "a.extxyz", k, "all", f"group {g}")
        for g in groups
        for k in range(per_group)
    ]


def groups(frames):
    return {frame.group for frame in frames}


@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_and_no_frame_is_lost(seed):
    frames = synthetic(range(40))
    parts = split(frames, seed=seed)
    assert sum(map(len, parts)) == len(frames)
    assert sum(len(groups(part)) for part in parts) == 40
    assert all(parts)


def test_split_is_a_function_of_the_data_and_not_of_its_order():
    frames = synthetic(range(40))
    shuffled = random.Random(1).sample(frames, len(frames))
    renamed = [replace(frame, source="b.extxyz", index=7) for frame in shuffled]
    for part, other in zip(split(frames, seed=3), split(renamed, seed=3), strict=True):
        assert groups(part) == groups(other)
        assert data_hash(part) == data_hash(other)


def test_groups_keep_their_part_when_data_is_added():
    before = split(synthetic(range(40)), seed=1)
    after = split(synthetic(range(200)), seed=1)
    for small, large in zip(before, after, strict=True):
        assert groups(small) <= groups(large)


def test_seeds_give_different_splits_and_fractions_hold_on_average():
    frames = synthetic(range(2000), per_group=1)
    first, second = split(frames, (0.7, 0.1, 0.2), seed=0), split(frames, (0.7, 0.1, 0.2), seed=1)
    assert groups(first[2]) != groups(second[2])
    np.testing.assert_allclose([len(part) / 2000 for part in first], [0.7, 0.1, 0.2], atol=0.03)


@pytest.mark.parametrize("seed", range(20))
def test_no_wanted_part_stays_empty(seed):
    parts = split(synthetic(range(3)), (0.98, 0.01, 0.01), seed=seed)
    assert [len(groups(part)) for part in parts] == [1, 1, 1]


@pytest.mark.parametrize("fractions", [(0.9, 0.1, 0.0), (0.8, 0.0, 0.2), (1.0, 0.0, 0.0), (0.0, 0.3, 0.7)])
def test_a_part_of_share_zero_stays_empty(fractions):
    parts = split(synthetic(range(50)), fractions)
    assert [bool(part) for part in parts] == [share > 0 for share in fractions]


def test_too_few_groups_are_refused():
    with pytest.raises(InputError, match=r"1 group\(s\) of frames \(group 0\) cannot be divided into valid, train"):
        split(synthetic([0]), (0.9, 0.1, 0.0))


@pytest.mark.parametrize("fractions", [(0.9, 0.2, -0.1), (0.0, 0.0, 0.0)])
def test_shares_that_make_no_sense_are_refused(fractions):
    with pytest.raises(InputError, match="must be shares"):
        split(synthetic(range(5)), fractions)


def test_hash_fractions_are_even_and_differ_by_seed():
    numbers = np.array([hash_fraction(0, str(i)) for i in range(4000)])
    assert numbers.min() >= 0
    assert numbers.max() < 1
    np.testing.assert_allclose(np.histogram(numbers, bins=4, range=(0, 1))[0] / 4000, 0.25, atol=0.03)
    assert hash_fraction(1, "0") != numbers[0]


def test_smaller_shares_are_part_of_larger_ones_whatever_the_order():
    frames = synthetic(range(20))
    hashes = [{f.structure_hash for f in subset(frames, share, seed=2)} for share in (0.1, 0.25, 0.5, 1.0)]
    assert [len(part) for part in hashes] == [6, 15, 30, 60]
    assert hashes[0] < hashes[1] < hashes[2] < hashes[3]
    assert {f.structure_hash for f in subset(frames[::-1], 0.25, seed=2)} == hashes[1]
    assert {f.structure_hash for f in subset(frames, 0.25, seed=3)} != hashes[1]


@pytest.mark.parametrize("share", [0.0, -0.5, 1.5])
def test_a_share_outside_zero_to_one_is_refused(share):
    with pytest.raises(InputError, match="fraction"):
        subset(synthetic(range(3)), share)


def test_the_same_structure_in_two_parts_is_refused():
    frames = synthetic(range(4))
    copy = replace(frames[1], source="test.extxyz", index=0, group="another", given={"energy": 5.0})
    with pytest.raises(InputError, match=r"1 structures stand in both train and test, first frame 1 of a\.extxyz"):
        check_disjoint({"train": frames, "test": [copy]})


def test_parts_that_share_a_group_are_said():
    frames = synthetic(range(4))
    with pytest.warns(UserWarning, match=r"train and valid share 1 group\(s\).*group 1"):
        check_disjoint({"train": frames[:4], "valid": frames[4:]})


def test_the_hash_of_the_data_sees_every_digit_and_no_order():
    frames = synthetic(range(4))
    assert data_hash(frames) == data_hash(frames[::-1])
    energy = frames[0].given["energy"]
    assert data_hash([replace(frames[0], given={"energy": energy + 1e-12}), *frames[1:]]) != data_hash(frames)
    moved = frames[0].atoms.copy()
    moved.positions[0, 0] += 1e-4
    assert data_hash([replace(frames[0], atoms=moved), *frames[1:]]) != data_hash(frames)


def test_the_shipped_parts_are_disjoint():
    parts = {part: read(FOLDER / f"{part}.extxyz") for part in PARTS}
    check_disjoint(parts)
    assert not groups(parts["train"]) & groups(parts["test"])
