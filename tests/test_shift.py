"""The test of a shift has the p-values that it promises: uniform without one, small with one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.data.frames import Frame
from finetune.learning.grades import apart
from finetune.uncertainty import shift
from finetune.uncertainty.calibration import ENOUGH_GROUPS
from finetune.uncertainty.shift import Record, shift_p_values

from .structures import frames as structures

NOISE = {3: 0.1, 15: 0.3, 16: 0.2}  # eV/Å


def errors_of(rng: np.random.Generator, groups: int, scale: float = 1.0) -> Record:
    """Groups of 5 to 15 atoms, whose errors have a common factor each."""
    parts = []
    for k in range(groups):
        size = int(rng.integers(5, 16))
        numbers = rng.choice(list(NOISE), size)
        noise = np.array([NOISE[int(z)] for z in numbers]) * scale * np.exp(0.3 * rng.normal())
        errors = noise * np.linalg.norm(rng.normal(size=(size, 3)), axis=1)
        parts.append((errors, np.ones(size), numbers, np.full(size, k), np.full(size, k)))
    return Record(*(np.concatenate(column) for column in zip(*parts, strict=True)))


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shift, "PERMUTATIONS", 59)
    monkeypatch.setattr(shift, "LEAST", 59)


@pytest.mark.slow  # 400 data sets, 60 divisions of each
@pytest.mark.usefixtures("few")
def test_p_values_are_uniform_where_groups_can_be_exchanged(rng: np.random.Generator) -> None:
    p = [shift_p_values(errors_of(rng, 8), errors_of(rng, 7), 0.8, rng)[0] for _ in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.08
    assert stats.kstest(p, "uniform").pvalue > 0.01


@pytest.mark.usefixtures("few")
def test_a_shift_of_all_errors_is_seen(rng: np.random.Generator) -> None:
    p = [shift_p_values(errors_of(rng, 12), errors_of(rng, 12, scale=2.0), 0.9, rng) for _ in range(10)]
    assert np.mean([found[0] <= 0.05 for found in p]) > 0.8
    assert p[0].keys() == {0, 3, 15, 16}


@pytest.mark.usefixtures("few")
def test_one_group_that_is_off_is_no_shift(rng: np.random.Generator) -> None:
    """Thousand atoms of one group count as one witness."""
    first, second = errors_of(rng, 10), errors_of(rng, 10)
    large = second.groups == 0
    copies = np.concatenate([np.arange(len(second)), np.repeat(np.flatnonzero(large), 50)])
    errors = np.where(large, 3.0, 1.0) * second.errors
    many = Record(errors, second.scores, second.numbers, second.groups, second.frames)[copies]
    assert shift_p_values(first, many, 0.9, rng)[0] > 0.02


@pytest.mark.usefixtures("few")
def test_errors_of_the_same_median_that_scatter_more_are_a_shift(rng: np.random.Generator) -> None:
    """Their mean rank is that of the calibration, but fewer are covered; and the other way round."""
    level, seen = 0.9, []
    for _ in range(8):
        first, second = errors_of(rng, 15), errors_of(rng, 15)
        middle = np.median(first.errors)
        wider = middle * (second.errors / middle) ** 2.5
        below = np.where(second.errors < 1.2 * middle, 0.4 * second.errors, second.errors)
        for errors in (wider, below):
            other = Record(errors, second.scores, second.numbers, second.groups, second.frames)
            seen.append(shift_p_values(first, other, level, rng)[0] <= 0.05)
    assert np.mean(seen[::2]) > 0.6
    assert np.mean(seen[1::2]) > 0.6


@pytest.mark.usefixtures("few")
def test_frames_of_a_group_are_one_witness(rng: np.random.Generator) -> None:
    """Groups of ten frames with a common factor each: as if they were independent a shift would be seen in most."""

    def of_frames(by_frame: bool) -> Record:
        sizes = np.repeat(np.exp(0.7 * rng.normal(size=8)), 40)
        frames = np.repeat(np.arange(80), 4)
        errors = sizes * np.linalg.norm(rng.normal(size=(320, 3)), axis=1)
        return Record(errors, np.ones(320), np.full(320, 3), frames if by_frame else frames // 10, frames)

    found = {
        by_frame: np.mean([shift_p_values(of_frames(by_frame), of_frames(by_frame), 0.8, rng)[0] <= 0.05
                           for _ in range(30)])
        for by_frame in (False, True)
    }  # fmt: skip
    assert found[False] <= 0.2
    assert found[True] > 0.4


def test_calibration_frames_of_their_own_share_no_group_with_those_that_choose_the_epoch() -> None:
    atoms = structures()[0]
    frames = [Frame(atoms, {}, "valid", k, "x", f"group {k // 2}") for k in range(2 * ENOUGH_GROUPS)]
    first, second = apart(frames)
    assert sorted([*first, *second]) == list(range(2 * ENOUGH_GROUPS))
    assert not {frames[k].group for k in first} & {frames[k].group for k in second}
    assert len(first) == len(second)
    assert apart(frames[2:]) is None
