"""A verdict needs a floor: the same thing measured twice is not distinguishable, in any row of the comparison."""

from __future__ import annotations

import math

import numpy as np
import pytest

from finetune.comparison import Tolerance
from finetune.comparison.figures import Figure, Measured, binomial, interval
from finetune.comparison.verdicts import Verdict, judge, overall

LIMITS = {"V0": Tolerance(0.1), "share": Tolerance(5.0, target=0.0), "error": Tolerance(3.0, target=0.0)}


def words(figures, reference=None, strict=()):
    known = None if reference is None else Measured(reference)
    return [one.word for one in judge(figures, known, LIMITS, strict)]


def test_a_distance_is_compared_with_the_larger_of_tolerance_and_floor():
    def ratio(half, distance=1.0):
        reference = Measured([Figure("Li", "V0", 20.0)])
        return judge(
            [Figure("Li", "V0", 20.0 + distance, "", 20 + distance - half, 20 + distance + half)], reference, LIMITS
        )[0]

    assert ratio(0.05).ratio == pytest.approx(10.0)
    assert ratio(0.5).ratio == pytest.approx(2.0)
    assert (ratio(0.5).word, ratio(1.1).word) == ("near", "same")


def test_intervals_of_both_sides_make_the_floor_and_only_the_halves_that_face_each_other():
    own, reference = Figure("Li", "V0", 21.0, "", 20.4, 29.0), Figure("Li", "V0", 20.0, "", 11.0, 20.8)
    assert judge([own], Measured([reference]), LIMITS)[0].same  # hypot(0.6, 0.8) = 1
    narrower = Figure("Li", "V0", 20.0, "", 11.0, 20.79)
    assert not judge([own], Measured([narrower]), LIMITS)[0].same


def test_a_floor_that_is_given_replaces_the_interval():
    assert words([Figure("g", "error", 9.0, floor=9.5), Figure("g", "error", 9.0, floor=8.5)]) == ["same", "near"]


def test_equal_figures_are_not_distinguishable_whatever_the_target_and_others_are():
    figures = [Figure("Li", "V0", 20.0), Figure("", "error", 50.0), Figure("", "share", 40.0)]
    assert words(figures, figures, ["share"]) == ["same"] * 3
    assert words(figures[1:], None, ["share"]) == ["beyond", "beyond"]
    judged = judge(figures, Measured(figures), LIMITS, ["share"])
    assert overall(judged) == Verdict("same", "not distinguishable")
    other = [Figure("Li", "V0", 20.05), *figures[1:]]
    assert overall(judge(other, Measured(figures), LIMITS, ["share"])) == Verdict("within", "0.5×", "Li: V0")


def test_equal_figures_that_nothing_judges_are_not_distinguishable_either():
    times = [Figure("", "time", 2.0, "ms", 1.8, 2.2)]
    assert overall(judge(times, Measured(times), {})).word == "same"
    assert overall(judge(times, None, {})).word == "told"
    slower = [Figure("", "time", 4.0, "ms", 3.8, 4.2)]
    assert overall(judge(slower, Measured(times), {})).word == "told"


def test_what_is_missing_in_both_columns_is_no_difference():
    lost = [Figure("Li", "V0", math.nan), Figure("P", "V0", 20.0)]
    assert overall(judge(lost, Measured(lost), LIMITS)).word == "same"


def test_too_short_a_measurement_has_no_verdict_unless_its_figures_are_equal():
    short = [Figure("", "error", 7.0, short="0.4 ps; a verdict needs 4 ps")]
    judged = judge(short, None, LIMITS)
    assert math.isnan(judged[0].ratio)
    assert overall(judged) == Verdict("told", "too short for a verdict", "0.4 ps; a verdict needs 4 ps")
    assert overall(judge(short, Measured(short), LIMITS)).word == "same"
    other = [Figure("", "error", 7.5, floor=5.0, short="0.4 ps; a verdict needs 4 ps")]
    assert overall(judge(other, Measured(short), LIMITS)).word == "told"


def test_a_short_reference_gives_no_verdict_on_a_long_run():
    reference = Measured([Figure("Li", "V0", 20.0, short="0.4 ps; a verdict needs 4 ps")])
    assert overall(judge([Figure("Li", "V0", 30.0)], reference, LIMITS)).brief == "too short for a verdict"


def test_shares_of_few_runs_that_differ_by_chance_are_not_distinguishable():
    def share(count, of):
        return [Figure("", "share", 100 * count / of, "%", *binomial(count, of))]

    assert words(share(1, 8), share(0, 8), ["share"]) == ["same"]
    assert words(share(8, 8), share(0, 8), ["share"]) == ["beyond"]
    assert words(share(1, 8), None, ["share"]) == ["beyond"]  # a potential without a hole never shows one


def test_what_passes_or_fails_is_not_within_the_noise_of_its_target():
    """Of two figures each interval is widened, here down to the target; one hole is certain nevertheless."""
    figures = [Figure("", "share", 12.5, "%", *binomial(1, 8)), Figure("Li", "V0", 20.0, "", 19.0, 21.0, 3)]
    reference = Measured([Figure("Li", "V0", 20.0)])
    assert figures[0].margin(0.0, compared=2) > 12.5
    assert [one.word for one in judge(figures, reference, LIMITS, ["share"])] == ["beyond", "same"]
    assert [one.word for one in judge(figures, reference, LIMITS)] == ["same", "same"]


def test_of_many_noisy_figures_the_worst_stays_below_the_floor_in_95_percent_of_repetitions():
    rng = np.random.default_rng(0)
    distinct = 0
    for _ in range(200):
        columns = []
        for _ in range(2):
            runs = rng.standard_normal((12, 6))
            figures = []
            for k, own in enumerate(runs):
                low, high, samples = interval(own)
                figures.append(Figure(str(k), "V0", float(own.mean()), "", low, high, samples))
            columns.append(figures)
        distinct += overall(judge(columns[0], Measured(columns[1]), LIMITS)).word != "same"
    assert distinct <= 0.05 * 200 + 2.6 * math.sqrt(0.05 * 0.95 * 200)  # 99.5 % of the binomial


def test_the_interval_of_a_mean_is_that_of_student():
    low, high, samples = interval([1.0, 2.0, 3.0])
    assert samples == 3
    assert (low, high) == (
        pytest.approx(2 - 4.3027 / math.sqrt(3), abs=1e-4),
        pytest.approx(2 + 4.3027 / math.sqrt(3), abs=1e-4),
    )
