"""How often the permutation test finds a shift of the errors; docs/how-to/uncertainty.md has the printed shares.

pytest -m slow tests/test_shift_power.py -s
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from finetune.uncertainty import shift
from finetune.uncertainty.shift import shift_p_values

from .test_shift import errors_of

SETS = 400
GROUPS = 15, 16  # of the calibration and of the test, as in data/interface


@pytest.mark.slow  # 400 pairs of data sets, 200 divisions of each
@pytest.mark.parametrize(("scale", "least", "most"), [(1.0, 0.02, 0.08), (1.5, 0.4, 0.9), (2.0, 0.85, 1.0)])
def test_share_of_data_sets_with_a_shift_that_is_found(
    scale: float, least: float, most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shift, "PERMUTATIONS", 199)
    rng = np.random.default_rng(2)
    found = 0
    for _ in range(SETS):
        first, second = (errors_of(rng, groups, size) for groups, size in zip(GROUPS, (1.0, scale), strict=True))
        found += shift_p_values(first, second, 0.9, rng)[0] <= 0.05
    low, high = stats.binomtest(found, SETS).proportion_ci()
    print(f"errors x {scale}: p <= 0.05 in {found / SETS:.1%} ({low:.1%} to {high:.1%}) of {SETS} pairs of data sets")
    assert least <= found / SETS <= most
