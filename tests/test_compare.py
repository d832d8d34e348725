"""The comparison as a whole: verdicts, failures, restarts, the report, the command."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

import finetune
from finetune import comparison
from finetune.adapting import Shifted
from finetune.calculators import PotentialCalculator
from finetune.comparison import (
    Compression,
    Energies,
    EquationOfState,
    Errors,
    Foreign,
    Forgetting,
    Labels,
    Model,
    PairCurves,
    Stability,
    Tolerance,
    compare,
    wandb_record,
    write_report,
)
from finetune.comparison.cells import key
from finetune.comparison.columns import column
from finetune.comparison.drawing import panels
from finetune.comparison.figures import Curve, Figure, Measured, binomial
from finetune.comparison.report import Told
from finetune.comparison.verdicts import Judged, Verdict, class_of, judge, overall, times
from finetune.errors import InputError
from finetune.labelling.executors import dask
from finetune.locks import locked

from .commands import CONFIGS, THEIR_WARNINGS, command, process

BROKEN = """
import time
from ase.calculators.emt import EMT
import numpy as np

class Spoiled(EMT):
    def __init__(self, part, factor):
        super().__init__()
        self.part, self.factor = part, factor
    def calculate(self, atoms=None, *rest):
        super().calculate(atoms, *rest)
        n = len(self.atoms)
        if self.part == "forces":
            self.results["forces"] = self.results["forces"] * self.factor
        if self.part == "volume" and n == 1:
            x = self.atoms.get_volume() / 11.57 - 1
            self.results["energy"] += self.factor * x * x
        if self.part == "pairs" and n == 2:
            self.results["energy"] *= self.factor
        self.results["free_energy"] = self.results["energy"]

class Raises(EMT):
    def calculate(self, *rest):
        raise RuntimeError("the licence server is asleep")

class Nothing(EMT):
    def calculate(self, *rest):
        super().calculate(*rest)
        self.results["energy"] = self.results["free_energy"] = float("nan")
        self.results["forces"] = self.results["forces"] * float("nan")

class Hangs(EMT):
    def calculate(self, *rest):
        time.sleep(1000)

class Dies(EMT):
    def calculate(self, *rest):
        import os
        os.kill(os.getpid(), 9)

class Starts(EMT):
    def calculate(self, *rest):
        import pathlib, subprocess
        child = subprocess.Popen(["sleep", "4321"])
        (pathlib.Path(__file__).parent / "started").write_text(str(child.pid))
        child.wait()

class Slow(EMT):
    def calculate(self, *rest):
        time.sleep(0.15)
        super().calculate(*rest)
"""


@pytest.fixture
def broken(tmp_path, monkeypatch) -> None:
    """Calculators that go wrong, where workers can import them."""
    (tmp_path / "broken_calculators.py").write_text(BROKEN)
    monkeypatch.syspath_prepend(str(tmp_path))


def labelled(atoms: Atoms, group: str, family: str) -> Atoms:
    own = atoms.copy()
    own.calc = EMT()
    atoms.info |= {"group": group, "family": family, "REF_energy": own.get_potential_energy()}
    atoms.arrays["REF_forces"] = own.get_forces()
    if atoms.cell.rank == 3:
        atoms.info["REF_stress"] = own.get_stress()
    return atoms


@pytest.fixture
def data(tmp_path) -> dict[str, str]:
    """Labels by EMT, in place of DFT."""
    volumes, rattled = [], []
    for x in np.linspace(0.92, 1.08, 7):
        atoms = bulk("Cu", "fcc", a=3.59)
        atoms.set_cell(atoms.cell * x ** (1 / 3), scale_atoms=True)
        volumes.append(labelled(atoms, "Cu", "equation of state"))
    for seed in range(4):
        atoms = bulk("Cu", "fcc", a=3.59, cubic=True)
        atoms.rattle(0.08, seed=seed)
        rattled.append(labelled(atoms, f"r{seed}", "rattled"))
    pairs = [labelled(Atoms("Cu2", [(0, 0, 0), (r, 0, 0)]), "Cu-Cu", "dimer") for r in np.arange(0.8, 6.01, 0.05)]
    alone = [labelled(Atoms("Cu"), "Cu atom", "atom")]
    files = {"volumes": volumes, "rattled": rattled, "pairs": [*pairs, *alone]}
    for name, frames in files.items():
        ase.io.write(tmp_path / f"{name}.extxyz", frames, format="extxyz")
    return {name: str(tmp_path / f"{name}.extxyz") for name in files}


def rows(data, **more):
    return [
        Errors(files=[data["rattled"]]),
        EquationOfState(files=[data["volumes"]]),
        PairCurves(elements=["Cu"]),
        *more.values(),
    ]


def dft(data) -> Labels:
    return Labels(list(data.values()), method="EMT")


def test_a_perfect_copy_is_not_distinguishable_and_each_spoiled_one_is_beyond_in_its_own_row(data, broken, tmp_path):
    spoiled = {
        part: Foreign("broken_calculators.Spoiled", {"part": part, "factor": factor})
        for part, factor in (("forces", 1.5), ("volume", 60.0), ("pairs", 2.0))
    }
    found = compare({"DFT": dft(data), "copy": EMT(), **spoiled}, rows(data), tmp_path / "c", "DFT", progress=False)
    names = ["Errors on labelled frames", "Equations of state", "Pair curves"]
    assert [found.verdict(row, "copy").word for row in names] == ["same"] * 3
    for part, wrong in zip(spoiled, names, strict=True):
        verdicts = {row: found.verdict(row, part).word for row in names}
        assert verdicts.pop(wrong) in ("off", "beyond"), (part, verdicts)
        assert set(verdicts.values()) == {"same"}, part


def test_what_raises_hangs_dies_or_gives_no_number_costs_its_own_cells_only(data, broken, tmp_path):
    wrong = {name: Foreign(f"broken_calculators.{name}") for name in ("Raises", "Nothing", "Hangs", "Dies")}
    observables = [Errors(files=[data["rattled"]]), EquationOfState(files=[data["volumes"]])]
    begin = time.monotonic()
    found = compare({"DFT": dft(data), "EMT": EMT(), **wrong}, observables, tmp_path / "c", "DFT", limit_s=6.0)
    assert time.monotonic() - begin < 60
    for observable in observables:
        row = observable.name()
        assert found.verdict(row, "EMT").word == "same"
        assert "the licence server is asleep" in found.results[row, "Raises"].error
        assert "number" in found.results[row, "Nothing"].error or found.verdict(row, "Nothing").word == "beyond"
        assert "not finished after 6 s" in found.results[row, "Hangs"].error
        assert "died" in found.results[row, "Dies"].error
    page = write_report(found, tmp_path / "c").read_text()
    assert "the licence server is asleep" in page


def test_adding_a_column_computes_that_column_only_and_what_changes_is_computed_again(data, tmp_path):
    observables = rows(data)
    compare({"DFT": dft(data), "EMT": EMT()}, observables, tmp_path / "c", "DFT", progress=False)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c" / "cells").glob("*.json")}
    assert len(before) == 6
    morse = Foreign("ase.calculators.morse.MorsePotential", {"r0": 2.5, "epsilon": 0.4, "rho0": 4.0})
    compare({"DFT": dft(data), "EMT": EMT(), "M": morse}, observables, tmp_path / "c", "DFT", progress=False)
    after = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "c" / "cells").glob("*.json")}
    assert len(after) == 9
    assert {name: after[name] for name in before} == before
    stiffer = Foreign("ase.calculators.morse.MorsePotential", {"r0": 2.5, "epsilon": 0.5, "rho0": 4.0})
    compare({"M": stiffer}, observables, tmp_path / "c", progress=False)
    assert len(list((tmp_path / "c" / "cells").glob("*.json"))) == 12
    ase.io.write(data["rattled"], ase.io.read(data["rattled"], ":3"), format="extxyz")
    compare({"M": stiffer}, observables, tmp_path / "c", progress=False)
    assert len(list((tmp_path / "c" / "cells").glob("*.json"))) == 13
    looser = [Errors(files=[data["rattled"]], tolerances={"forces MAE": Tolerance(1e6, target=0.0)}, title="Other")]
    compare({"M": stiffer}, looser, tmp_path / "c", progress=False)
    assert len(list((tmp_path / "c" / "cells").glob("*.json"))) == 13  # a tolerance changes no figure


def test_the_weights_of_a_model_decide_its_identity_and_its_name_does_not():
    assert column("mace:mini").identity() == Model("mace:mini").identity()
    assert column("mace:mini").identity() != column("chgnet").identity()
    assert column(["chgnet", "mace:mini"]).identity() != column("chgnet").identity()


def test_cells_that_are_the_same_are_computed_once_and_do_not_meet(data, tmp_path):
    runs = {"structures": [data["rattled"]], "temperatures_K": (300.0,), "ps": 0.05, "most": 1}
    twice = [Stability(**runs), Stability(title="again", tolerances={"survived": Tolerance(9.0, target=100.0)}, **runs)]
    found = compare({"a": Foreign("ase.calculators.emt.EMT"), "b": Foreign("ase.calculators.emt.EMT")}, twice, tmp_path)
    assert all(result.measured is not None for result in found.results.values()), found.results
    assert len(list((tmp_path / "cells").glob("*.json"))) == 1


def test_what_decides_figures_decides_the_key_and_use_or_place_does_not(data, tmp_path, monkeypatch):
    errors = Errors(files=[data["rattled"]])
    assert key("x", errors) == key(
        "x", Errors(files=[os.path.relpath(data["rattled"])], force_edges=[0.0, 0.5, 1.0, 2.0, 5.0])
    )
    assert key("x", errors) != key("x", Errors(files=[data["rattled"]], force_edges=[0.0, 1.0]))
    made, used = EMT(), bulk("Cu")
    fresh = column(made).identity()
    used.calc = LennardJones()
    before = column(used.calc).identity()
    used.get_potential_energy()
    assert column(used.calc).identity() == before != fresh
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best.ckpt").write_text("one")
    given = Foreign("finetune.calculator", {"model": str(tmp_path / "run")})
    before = given.identity()
    (tmp_path / "run" / "best.ckpt").write_text("two")
    assert given.identity() != before


def test_programs_that_a_calculator_has_started_end_with_its_cell(data, broken, tmp_path):
    found = compare(
        {"a": Foreign("broken_calculators.Starts")}, [Errors(files=[data["rattled"]])], tmp_path / "c", limit_s=6.0
    )
    assert "not finished" in found.results["Errors on labelled frames", "a"].error
    pid = int((tmp_path / "started").read_text())
    status = Path(f"/proc/{pid}/stat")
    assert not status.exists() or status.read_text().split()[2] == "Z"


def test_another_command_on_the_same_directory_is_refused(data, tmp_path):
    with locked(tmp_path / "c" / "cells", ""), pytest.raises(InputError, match=r"that process .* writes into"):
        compare({"EMT": EMT()}, rows(data)[:1], tmp_path / "c")


def test_the_shipped_configuration_can_run(root, monkeypatch):
    monkeypatch.chdir(root)
    config = yaml.safe_load((root / "configs/compare.yaml").read_text())
    for given in config["observables"]:
        kind = getattr(comparison, given["class_path"].rpartition(".")[2])
        kind(**given["init_args"]).check()


def test_the_same_comparison_in_two_places_has_the_same_numbers(data, tmp_path):
    stable = Stability(structures=[data["rattled"]], temperatures_K=(300.0,), ps=0.05, most=2)
    observables = rows(data, holes=Compression(files=[data["rattled"]], most=2), stable=stable)
    reports = []
    for place in ("a", "b"):
        found = compare({"DFT": dft(data), "EMT": EMT()}, observables, tmp_path / place, "DFT", progress=False)
        write_report(found, tmp_path / place)
        content = json.loads((tmp_path / place / "report.json").read_text())
        for row in content["rows"]:
            for cell in row["cells"].values():
                cell.pop("wall_s")
        reports.append(content)
    assert reports[0] == reports[1]


def test_other_executors_run_cells(data, tmp_path):
    found = compare({"EMT": EMT()}, rows(data)[:2], tmp_path / "c", executor=dask(workers=1), progress=False)
    assert all(result.measured is not None for result in found.results.values()), found.results


def test_a_committee_tells_how_far_its_spread_follows_its_error(root, tmp_path):
    files = [str(root / "data/starting/test.extxyz")]
    frames = ase.io.read(files[0], ":3")
    ase.io.write(tmp_path / "few.extxyz", frames, format="extxyz")
    found = compare(
        {"both": ["chgnet", "mace:mini"]},
        [Errors(files=[str(tmp_path / "few.extxyz")])],
        tmp_path / "c",
        progress=False,
    )
    measured = found.results["Errors on labelled frames", "both"].measured
    assert measured is not None
    assert "rank correlation of spread and error" in [figure.kind for figure in measured.figures]
    assert "Error against committee spread" in [curve.panel for curve in measured.curves]


def test_cells_are_only_those_that_are_wanted(data, broken, tmp_path):
    wanted = Forgetting(files=[data["rattled"]], only=["EMT", "spoiled"], budget=1.0)
    spoiled = Foreign("broken_calculators.Spoiled", {"part": "forces", "factor": 1.5})
    columns = {"EMT": EMT(), "again": EMT(), "spoiled": spoiled}
    found = compare(columns, [wanted], tmp_path / "c", progress=False)
    assert found.verdict("Forgetting", "EMT").word == "within"
    assert found.verdict("Forgetting", "spoiled").word == "beyond"
    assert found.verdict("Forgetting", "again").word == "none"


@THEIR_WARNINGS
def test_a_model_that_is_judged_by_frames_it_was_trained_on_is_told_of_everywhere(data, root, tmp_path, capsys):
    run = tmp_path / "run"
    assert command("fit", *CONFIGS, "--trainer.default_root_dir", run, f"--data.train={data['rattled']}",
                   f"--data.valid={data['volumes']}", "--data.split=[0.5,0.5,0]") == 0  # fmt: skip
    few = [ase.io.read(data["rattled"], 0), ase.io.read(data["rattled"], 1)]
    few.append(labelled(bulk("Cu", "fcc", a=3.7, cubic=True), "other", "crystal"))
    ase.io.write(tmp_path / "test.extxyz", few, format="extxyz")
    columns = {"DFT": Labels([str(tmp_path / "test.extxyz")]), "own": str(run), "other": EMT()}
    found = compare(columns, [Errors(files=[str(tmp_path / "test.extxyz")])], tmp_path / "c", progress=False)
    row = "Errors on labelled frames"
    assert found.warnings == {(row, "own"): "trained on 2 of these 3 frames"}
    page = write_report(found, tmp_path / "c").read_text()
    assert page.count("⚠ trained on 2 of these 3 frames") == 2  # in the matrix and in the section
    assert "⚠ trained on 2 of these 3 frames" in (tmp_path / "c" / "report.md").read_text()
    trained = Model(str(run)).fitted_to()
    finetune.save(finetune.load(run), tmp_path / "alone.pt")  # a file that stands alone knows them as well
    assert Model(str(tmp_path / "alone.pt")).fitted_to() == trained
    content = torch.load(run / "best.ckpt", weights_only=True)
    del content["training"]  # as written by earlier versions
    content.pop("checksum")
    torch.save(content, run / "best.ckpt")
    assert Model(str(run)).fitted_to() == trained  # from frames.json
    (run / "frames.json").unlink()
    assert Model(str(run)).fitted_to() is None


def test_energies_count_as_they_come_only_where_the_model_was_fitted_to_them(data, tmp_path):
    class Off(EMT):
        def calculate(self, *arguments) -> None:
            super().calculate(*arguments)
            self.results["energy"] = self.results["free_energy"] = self.results["energy"] + 0.5 * len(self.atoms)

    errors = Errors(files=[data["rattled"]])
    foreign = errors.measure(Off(), tmp_path).by_name()
    assert foreign["energy MAE"].value == pytest.approx(0.0, abs=1e-3)
    assert foreign["energy MAE without a shift"].value == pytest.approx(500.0)
    lithium = [labelled(bulk("Al", "fcc", a=4.05, cubic=True), f"a{k}", "crystal") for k in range(4)]
    for k, atoms in enumerate(lithium):
        atoms.rattle(0.05, seed=k)
        atoms.symbols[:] = "Li"
    ase.io.write(tmp_path / "li.extxyz", lithium, format="extxyz")
    errors = Errors(files=[str(tmp_path / "li.extxyz")])
    potential = Model("mace:mini").potential()
    plain = errors.measure(PotentialCalculator(potential, "cpu"), tmp_path).by_name()
    off = plain["energy MAE without a shift"].value / 1000  # all errors have one sign, so this is their mean
    assert off > 0.1
    moved = [Shifted(potential, {3: sign * off + 0.5}) for sign in (1.0, -1.0)]
    ours = [errors.measure(PotentialCalculator(one, "cpu"), tmp_path).by_name() for one in moved]
    assert min(abs(found["energy MAE"].value - 500.0) for found in ours) < 1.0
    for found in ours:
        assert found["energy MAE after a shift"].value == pytest.approx(plain["energy MAE"].value, abs=0.01)


def test_the_only_recorded_labels_are_what_is_judged_by(data, tmp_path):
    found = compare({"EMT": EMT(), "DFT": dft(data)}, rows(data)[:1], tmp_path / "c", progress=False)
    assert found.reference == "DFT"
    assert found.verdict("Errors on labelled frames", "DFT").word == "told"
    none = compare({"a": EMT(), "b": EMT()}, rows(data)[:1], tmp_path / "c", progress=False)
    assert none.reference is None


def test_a_report_on_a_part_says_what_is_not_there_yet(data, tmp_path):
    columns = {"DFT": dft(data), "EMT": EMT()}
    compare(columns, rows(data)[:1], tmp_path / "c", progress=False)
    part = compare(columns, rows(data)[:2], tmp_path / "c", progress=False, computed=False)
    assert part.verdict("Errors on labelled frames", "EMT").word == "same"
    assert "not computed yet" in part.results["Equations of state", "EMT"].error
    write_report(part, tmp_path / "c")
    assert "- no result: Equations of state, EMT: not computed yet" in (tmp_path / "c" / "report.md").read_text()


def test_without_a_terminal_each_cell_is_a_line(data, broken, tmp_path, capfd):
    columns = {"EMT": EMT(), "wrong": Foreign("broken_calculators.Raises")}
    compare(columns, rows(data)[:1], tmp_path / "c")
    said = capfd.readouterr().err
    assert re.search(r"compare 2/2: Errors on labelled frames, \w+: ", said)
    assert "no result: RuntimeError: the licence server is asleep" in said
    compare(columns, rows(data)[:1], tmp_path / "c")
    assert "compare: 1 of 2 cells are there already" in capfd.readouterr().err


def test_the_plots_show_what_is_right_and_say_where_they_are_cut():
    right = Curve("a", [0.0, 1.0], [0.0, 1.0], "x", "y")
    near, far = Curve("a", [0.0, 1.0], [0.1, 1.2], "x", "y"), Curve("a", [0.0, 1.0], [0.1, 1e6], "x", "y")
    figure = panels({"DFT": [right], "near": [near], "far": [far]}, "DFT", ["DFT", "near", "far"])
    assert figure is not None
    assert [trace.name for trace in figure.data] == ["far", "near", "DFT"]  # what is right on top
    low, high = figure.layout.yaxis.range
    assert -2 < low < 0
    assert 1.2 < high <= 3
    assert figure.layout.annotations[0].text == "a (cut off)"
    whole = panels({"DFT": [right], "near": [near]}, "DFT", ["DFT", "near"])
    assert whole is not None
    assert whole.layout.yaxis.range is None
    shares = Curve("s", [0.0, 1.0], [100.0, 100.0], "x", "y", limits=(0.0, 105.0), whole=True)
    steps = panels({"near": [shares]}, None, ["near"])
    assert steps is not None
    assert steps.layout.yaxis.range == (0.0, 105.0)
    parity = Curve("p", [0.0, 1.0], [0.0, 1.0], "x", "y", style="points", diagonal=True)
    drawn = panels({"DFT": [parity], "near": [parity]}, "DFT", ["DFT", "near"])
    assert drawn is not None
    assert [trace.name for trace in drawn.data if trace.name] == ["near"]  # DFT beside itself says nothing


def test_the_page_holds_all_that_it_shows(data, tmp_path):
    found = compare({"DFT": dft(data), "EMT": EMT()}, rows(data), tmp_path / "c", "DFT", progress=False)
    page = write_report(found, tmp_path / "c").read_text()
    outside = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.findall(r"(?:src|href)=[\"'](?!#)", outside)
    assert not re.search(r"<script[^>]*\bsrc=", page)
    for words in ("Equations of state", "Cu-Cu", "within DFT", "recorded labels", "EMT"):
        assert words in outside
    table = (tmp_path / "c" / "report.md").read_text()
    assert "| Equations of state | ≈ not distinguishable" in table
    assert "V0 1 %; B0 0.5 GPa + 5 %; Δ 3 meV/atom (right: 0)." in outside
    assert "Passes within: spurious minima 0.05 (right: 0); falls at contact 0.05 (right: 0)." in outside


@pytest.mark.filterwarnings("default")  # of wandb's own
def test_the_same_tables_plots_and_page_go_to_weights_and_biases(data, tmp_path):
    found = compare({"DFT": dft(data), "EMT": EMT()}, rows(data)[:2], tmp_path / "c", "DFT", progress=False)
    write_report(found, tmp_path / "c")
    wandb_record.log(found, Told(), "comparisons", tmp_path / "c")
    (run,) = (tmp_path / "c" / "wandb").glob("offline-run-*")
    kinds = [path.name for path in run.rglob("files/media/**/*") if path.is_file()]
    assert sum(name.endswith(".table.json") for name in kinds) == 3  # the matrix, and one for each row
    assert sum(name.endswith(".plotly.json") for name in kinds) == 2
    assert sum(name.endswith(".html") for name in kinds) == 1
    told = json.loads(next(run.rglob("Equations of state/figures*.table.json")).read_text())
    values = {(row[0], row[2]): row[3] for row in told["data"]}
    assert values["EMT", "V0"] == pytest.approx(values["DFT", "V0"])


@pytest.mark.parametrize(
    ("ratio", "word"),
    [
        (0.0, "within"),
        (1.0, "within"),
        (2.0, "near"),
        (9.0, "off"),
        (11.0, "beyond"),
        (np.inf, "beyond"),
        (np.nan, "told"),
    ],
)
def test_classes_are_multiples_of_the_uncertainty(ratio, word):
    assert class_of(float(ratio)) == word


@pytest.mark.parametrize(
    ("ratio", "text"),
    [
        *((0.0, "0×"), (0.96, "1.0×"), (1.0, "1.0×"), (1.03, "1.03×"), (3.002, "3.002×"), (9.96, "10.0×")),
        *((10.01, "10.01×"), (150.2, "150×"), (np.inf, "∞"), (np.nan, "")),
    ],
)
def test_a_distance_is_never_rounded_to_the_limit_that_it_is_beyond(ratio, text):
    assert times(float(ratio)) == text


def test_a_failure_does_not_hide_a_distance_nor_a_distance_a_failure():
    near, far = Judged(Figure("Li", "V0", 20.0), 21.0, 2.0), Judged(Figure("P", "V0", 20.0), 21.0, 7.0)
    dip, none = (
        Judged(Figure("S-S", "dips", 1.0), 0.0, 20.0, strict=True),
        Judged(Figure("S", "B0", math.nan), 9.0, math.inf),
    )
    good = Judged(Figure("P-P", "dips", 0.0), 0.0, 0.0, strict=True)
    assert overall([near, far, good]) == Verdict("off", "7.0×", "P: V0")
    told = overall([near, dip, far, good, none])
    assert told == Verdict(
        "beyond", "7.0×, 1 fails, 1 without a number", "P: V0; fails: S-S: dips; without a number: S"
    )
    assert overall([good]) == Verdict("within", "passes")
    assert overall([dip]).brief == "1 fails"
    assert overall([Judged(Figure("", "told", 3.0), None, math.nan)]).word == "told"


def test_the_share_of_cases_that_pass_has_the_textbook_interval():
    assert binomial(0, 10) == (0.0, pytest.approx(100 * (1 - 0.025**0.1)))
    low, high = binomial(5, 10)  # Clopper and Pearson's own example
    assert (low, high) == (pytest.approx(18.7, abs=0.1), pytest.approx(81.3, abs=0.1))


def test_a_figure_is_judged_by_dft_a_target_or_not_at_all():
    limits = {"V0": Tolerance(0.1, 0.01), "share": Tolerance(5.0, target=0.0)}
    figures = [Figure("Li", "V0", 21.0), Figure("", "share", 10.0), Figure("", "told", 3.0), Figure("P", "V0", 1.0)]
    figures.append(Figure("Li", "V0", float("nan")))
    reference = Measured([Figure("Li", "V0", 20.0), Figure("", "share", 50.0)])
    ratios = [one.ratio for one in judge(figures, reference, limits)]
    np.testing.assert_allclose(ratios[:2], [1.0 / 0.3, 2.0])
    assert np.isnan(ratios[2])
    assert np.isnan(ratios[3])
    assert np.isinf(ratios[4])


def test_what_is_measured_comes_back_from_json_with_its_gaps():
    curve = Curve("a", [1.0, 2.0], [float("nan"), 1.0], "x", "y", low=[0.0, float("nan")], high=[1.0, 2.0])
    measured = Measured([Figure("Li", "V0", float("nan"), "Å³")], [curve], ["a note"])
    text = json.dumps(measured.json(), allow_nan=False)
    again = Measured.from_json(json.loads(text))
    assert json.dumps(again.json()) == text
    assert np.isnan(again.figures[0].value)


FOREIGN = "finetune.comparison.Foreign"
CONFIG = """
columns:
  DFT: {{class_path: finetune.comparison.Labels, init_args: {{files: [{rattled}, {volumes}]}}}}
  slow: {{class_path: finetune.comparison.Foreign, init_args: {{calculator_class: broken_calculators.Slow}}}}
reference: DFT
observables:
  - {{class_path: finetune.comparison.Errors, init_args: {{files: [{rattled}]}}}}
  - {{class_path: finetune.comparison.EquationOfState, init_args: {{files: [{volumes}]}}}}
  - class_path: finetune.comparison.Stability
    init_args: {{structures: [{rattled}], temperatures_K: [300.0], ps: 0.05, most: 1}}
"""


def test_a_comparison_that_is_killed_goes_on_with_what_is_not_there(data, broken, tmp_path):
    config = tmp_path / "compare.yaml"
    config.write_text(CONFIG.format(**data))
    words = ("compare", "-c", config, "--output", tmp_path / "c", "--allow", "broken_calculators")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    cells = tmp_path / "c" / "cells"
    running = process(*words, log=tmp_path / "log", PYTHONPATH=path)
    deadline = time.monotonic() + 120
    while len(list(cells.glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    running.kill()
    running.wait()
    before = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert 3 <= len(before) < 5
    assert process(*words, log=tmp_path / "log", PYTHONPATH=path).wait() == 0, (tmp_path / "log").read_text()
    after = {path.name: path.stat().st_mtime_ns for path in cells.glob("*.json")}
    assert {name: after[name] for name in before} == before
    assert len(after) == 5
    assert (tmp_path / "c" / "report.html").is_file()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"reference": "DTF"}, "DFT"),
        ({"columns": {"a": None}}, "the column a is empty"),
        (
            {"columns": {"a": {"class_path": "Foreign", "init_args": {"calculator_class": "ase.calculators.emt.ETM"}}}},
            "did you mean 'ase.calculators.emt.EMT'?",
        ),
        ({"columns": {"a": "chgnett"}}, "chgnet"),
        ({"columns": {"a": "chgnet"}, "observables": []}, "at least one"),
        ({"limit_s": 0}, "limit_s"),
        ({"observables": [{"class_path": "Errors", "init_args": {"files": ["nowhere.extxyz"]}}]}, "nowhere.extxyz"),
        ({"observables": [{"class_path": "Erors"}]}, "did you mean 'Errors'?"),
        ({"observables": [{"class_path": "Errors", "init_args": {"file": ["{r}"]}}]}, "did you mean 'files'?"),
        ({"observables": [{"class_path": "PairCurves", "init_args": {"elements": ["Xx"]}}]}, "no element"),
        ({"columns": {"a": {"class_path": "Foreign", "init_args": {"calculator_class": "no.Such"}}}}, "no.Such"),
        (
            {"observables": [{"class_path": "Cost", "init_args": {"structures": ["{r}"], "only": ["b"]}}]},
            "unknown column",
        ),
        (
            {
                "observables": [
                    {"class_path": "Errors", "init_args": {"files": ["{r}"], "tolerances": {"force MAE": {}}}}
                ]
            },
            "forces MAE",
        ),
        (
            {"observables": [{"class_path": "Energies", "init_args": {"files": ["{v}"], "reactions": ["Cu -> Au"]}}]},
            "phase in a reaction",
        ),
    ],
)
def test_mistakes_are_told_without_a_traceback(change, message, data, tmp_path, capsys):
    config = {
        "columns": {"DFT": {"class_path": "Labels", "init_args": {"files": [data["rattled"]]}}},
        "reference": "DFT" if "columns" not in change else None,
        "observables": [{"class_path": "Errors", "init_args": {"files": [data["rattled"]]}}],
    }
    text = yaml.safe_dump({**config, **change}).replace("{r}", data["rattled"]).replace("{v}", data["volumes"])
    (tmp_path / "c.yaml").write_text(text.replace("class_path: ", "class_path: finetune.comparison."))
    assert command("compare", "-c", tmp_path / "c.yaml", "--output", tmp_path / "out") != 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err + said.out
    assert message in said.err


def test_a_calculator_class_in_the_working_directory_is_found(data, tmp_path):
    (tmp_path / "mine_only_here.py").write_text("from ase.calculators.emt import EMT as Mine\n")
    config = {
        "columns": {
            "DFT": {"class_path": "finetune.comparison.Labels", "init_args": {"files": [data["rattled"]]}},
            "mine": {"class_path": FOREIGN, "init_args": {"calculator_class": "mine_only_here.Mine"}},
        },
        "observables": [{"class_path": "finetune.comparison.Errors", "init_args": {"files": [data["rattled"]]}}],
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    words = ("compare", "-c", "c.yaml", "--output", "out", "--allow", "mine_only_here.Mine")
    assert process(*words, log=tmp_path / "log", cwd=tmp_path).wait() == 0, (tmp_path / "log").read_text()
    assert "●" in (tmp_path / "out" / "report.md").read_text()


def test_a_stop_at_any_time_says_how_to_go_on_and_leaves_a_report(data, broken, tmp_path):
    config = tmp_path / "compare.yaml"
    config.write_text(CONFIG.format(**data))
    words = ("compare", "-c", config, "--output", tmp_path / "c", "--allow", "broken_calculators")
    path = f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}"
    running = process(*words, log=tmp_path / "log", PYTHONPATH=path)
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "c" / "cells").glob("*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130
    said = (tmp_path / "log").read_text()
    assert "the same command goes on" in said
    assert "ckpt_path" not in said
    assert "Traceback" not in said
    assert "not computed yet" in (tmp_path / "c" / "report.md").read_text()


def test_a_comparison_without_any_result_ends_with_status_1(data, broken, tmp_path, capsys):
    config = yaml.safe_load(CONFIG.format(**data))
    config["columns"]["slow"]["init_args"]["calculator_class"] = "broken_calculators.Raises"
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
    words = ("compare", "-c", tmp_path / "c.yaml", "--output", tmp_path / "out", "--allow", "broken_calculators.Raises")
    assert command(*words) == 1
    assert (
        "no result: Errors on labelled frames, slow: RuntimeError: the licence server is asleep"
        in capsys.readouterr().out
    )
    assert "the licence server is asleep" in (tmp_path / "out" / "report.md").read_text()


def test_a_calculator_that_cannot_be_sent_says_what_to_do():
    class Local(EMT):
        pass

    with pytest.raises(InputError, match="Foreign"):
        column(Local()).identity()
    with pytest.raises(InputError, match="at least one"):
        compare({}, [Energies(files=[])], "nowhere")
