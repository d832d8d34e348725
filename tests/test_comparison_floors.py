"""A verdict needs a floor: the same thing measured twice is not distinguishable, in any row of the comparison."""

from __future__ import annotations

import json
import math

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from pymatgen.io.ase import AseAtomsAdaptor

from finetune import comparison
from finetune.comparison import (
    Compression,
    Cost,
    Distributions,
    Elasticity,
    Energies,
    EquationOfState,
    Errors,
    Foreign,
    Forgetting,
    PairCurves,
    Phonons,
    Stability,
    Tolerance,
    Transport,
    compare,
)
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


def test_columns_that_have_no_value_at_all_are_not_distinguishable_and_one_with_a_value_is():
    """Two crystals in which nothing diffuses have upper bounds only."""
    bounds = [Figure(f"Li, {kelvin} K", "diffusivity", math.nan, "Å²/ps", 0.0, 1.3) for kelvin in (300, 600)]
    assert overall(judge(bounds, Measured(bounds), {})) == Verdict("same", "not distinguishable")
    assert overall(judge(bounds, None, {})).word == "told"
    diffusing = [Figure(one.subject, one.kind, 0.5, one.unit, 0.4, 0.6) for one in bounds]
    assert overall(judge(diffusing, Measured(bounds), {})).word == "told"
    assert overall(judge(bounds, Measured(diffusing), {})).word == "told"


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


AGAIN = """
from ase.calculators.emt import EMT

class Again(EMT):
    pass
"""


def write(path, frames, **info):
    for k, atoms in enumerate(frames):
        calculator = EMT()
        calculator.calculate(atoms, ["energy", "forces"])
        atoms.info |= {"group": f"{k}", "family": "crystal", "REF_energy": calculator.results["energy"], **info}
        atoms.arrays["REF_forces"] = calculator.results["forces"]
    ase.io.write(path, frames, format="extxyz")
    return [str(path)]


def rows(place):
    """Every observable, as short as it can be, on copper; a hot one of aluminium that diffuses."""
    structure = AseAtomsAdaptor.get_structure(bulk("Cu")).as_dict()
    entry = {"mp_id": "emt", "formula": "Cu", "structure": structure, "heat_capacity": 24.0}
    entry |= {"bulk_modulus_vrh": 134.0, "shear_modulus_vrh": 50.0}
    file = place / "crystals.json"
    file.write_text(json.dumps({"elasticity": [entry], "phonon": [entry]}))
    cold, hot = bulk("Cu", cubic=True), bulk("Al", a=4.6, cubic=True)
    hot.rattle(0.3, seed=0)
    rattled = [bulk("Cu", cubic=True) for _ in range(5)]
    for seed, atoms in enumerate(rattled):
        atoms.rattle(0.1, seed=seed)
    volumes = [bulk("Cu", a=3.6 * scale) for scale in np.linspace(0.97, 1.03, 7)]
    crystal, liquid = write(place / "cold.extxyz", [cold]), write(place / "hot.extxyz", [hot])
    atom = write(place / "atom.extxyz", [Atoms("Cu")], config_type="IsolatedAtom")
    labels, curve = write(place / "rattled.extxyz", rattled), write(place / "volumes.extxyz", volumes, group="Cu")
    run = {"ps": 0.2, "settle_ps": 0.05, "timestep_fs": 4.0}
    return [
        Errors(files=labels),
        EquationOfState(files=curve),
        Energies(files=[*curve, *atom]),
        PairCurves(elements=["Cu"]),
        Compression(files=labels),
        Distributions(structures=crystal, ps=0.1, settle_ps=0.02, temperature_K=300.0),
        Stability(structures=crystal, ps=0.05),
        Elasticity(file=str(file)),
        Phonons(file=str(file), min_length=7.0),
        Transport(title="Transport in a crystal", structures=crystal, element="Cu", every_fs=8.0, **run),
        Transport(
            title="Transport in a liquid",
            structures=liquid,
            element="Al",
            temperatures_K=(2500.0, 3500.0, 5000.0),
            hop=0.5,
            every_fs=8.0,
            **{**run, "ps": 1.2},
        ),
        Forgetting(files=labels),
        Cost(structures=crystal, repeats=[(1, 1, 1), (2, 1, 1)]),
    ]


def test_two_columns_of_one_potential_are_not_distinguishable_in_any_row(tmp_path, monkeypatch):
    """The same class under two names, so that each is measured in a process of its own: 15 s, most of it dynamics."""
    (tmp_path / "again.py").write_text(AGAIN)
    monkeypatch.syspath_prepend(str(tmp_path))
    observables = rows(tmp_path)
    assert {type(one).__name__ for one in observables} == {
        name for name in comparison.__all__ if isinstance(kind := getattr(comparison, name), type)
        and issubclass(kind, comparison.Observable) and kind is not comparison.Observable
    }  # fmt: skip
    columns = {"one": EMT(), "two": Foreign("again.Again")}
    found = compare(columns, observables, tmp_path / "c", "one", progress=False)
    verdicts = {one.name(): found.verdict(one.name(), "two") for one in observables}
    del verdicts["Cost"]  # on a busy machine times differ by more than those of five rounds
    assert {name: verdict for name, verdict in verdicts.items() if verdict.word != "same"} == {}
