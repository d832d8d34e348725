"""`finetune grade` and `finetune calibrate`, as a user types them."""

from __future__ import annotations

import json
import warnings

import ase.io
import numpy as np
import pytest
import torch

import finetune
from finetune import models, plots
from finetune.backbones.ace import ACE
from finetune.data.reading import read
from finetune.provenance import training_data
from finetune.uncertainty import Calibrated, Graded, calibrate, coverage

from .commands import THEIR_WARNINGS, command
from .structures import ROOT

pytestmark = THEIR_WARNINGS

DATA = ROOT / "data/starting"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    torch.manual_seed(0)
    potential = ACE(["Li", "P", "S"], nmax=[3, 1], lmax=[0, 2], functions=None, cutoff=4.0)
    torch.nn.init.normal_(potential.coefficients, std=0.1)
    path = tmp_path_factory.mktemp("model") / "model.pt"
    finetune.save(potential, path)
    return path


@pytest.fixture(scope="module")
def graded(model):
    path = model.with_name("graded.pt")
    assert command("grade", model, DATA / "train.extxyz", "--output", path) == 0
    return path


def test_a_graded_model_knows_its_training_frames(graded):
    atoms = ase.io.read(DATA / "train.extxyz", "5")
    atoms.calc = finetune.calculator(graded, device="cpu")
    atoms.get_forces()
    gamma = atoms.calc.results["gamma"]
    assert 0 < gamma.max() <= 1.001
    assert isinstance(models.load(graded), Graded)


def test_calibration_leaves_out_the_groups_that_chose_the_epoch_where_the_others_are_enough(model, tmp_path, capsys):
    """Twenty groups of their own are enough; a frame that shares a group with one of those that chose is left out."""
    frames = ase.io.read(DATA / "train.extxyz", ":")[:24]
    for k, atoms in enumerate(frames):
        atoms.info["group"] = f"group {max(k - 2, 0)}"  # the first three are one group
    potential = models.load(model)
    hashes = [frame.structure_hash for frame in read(DATA / "train.extxyz")[:1]]
    path, file = tmp_path / "fitted.pt", tmp_path / "frames.extxyz"
    for name, count in (("enough", 24), ("few", 21)):
        ase.io.write(file, frames[:count])
        potential.training_data = training_data([], [], hashes)
        models.save(potential, path)
        out = tmp_path / f"{name}.pt"
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            assert command("calibrate", path, file, "--output", out, "--level", "0.8") == 0
        said = capsys.readouterr().out
        assert ("calibration: 21 of 24 frames are used" in said) == (name == "enough")
        assert any("chose its epoch" in str(one.message) for one in found) == (name == "few")


def test_a_calibration_of_an_older_version_loads_and_says_that_it_has_no_test_of_a_shift(graded, tmp_path):
    new = calibrate(models.load(graded), read(DATA / "train.extxyz"), 0.8)
    path = tmp_path / "old.pt"
    models.save(new, path)
    content = torch.load(path, weights_only=True)
    content["potential"]["init_args"].pop("record")
    content["state_dict"] = {k: v for k, v in content["state_dict"].items() if "record_" not in k}
    content.pop("checksum")  # which earlier versions did not write
    torch.save(content, path)
    old = models.load(path)
    atoms = ase.io.read(DATA / "test.extxyz", "0")
    errors = [potential(potential.graph(atoms)).forces_error for potential in (old.eval(), new.eval())]
    torch.testing.assert_close(*errors)
    assert any("older version" in text for text in coverage(old, read(DATA / "test.extxyz")).warnings)


def test_a_calibrated_model_reports_its_coverage(graded, tmp_path, capsys):
    out, report = tmp_path / "calibrated.pt", tmp_path / "report"
    options = ("--output", out, "--report", report, "--level", "0.8")
    assert command("calibrate", graded, DATA / "train.extxyz", *options, "--test", DATA / "test.extxyz") == 0
    said = capsys.readouterr().out
    assert "of 80" in said
    assert "labelled atoms" in said
    content = json.loads((report / "coverage.json").read_text())
    expected = coverage(calibrate(models.load(graded), read(DATA / "train.extxyz"), 0.8), read(DATA / "test.extxyz"))
    assert content["all"]["covered"] == pytest.approx(expected.all.covered)
    assert content["element"].keys() == {"Li", "P", "S"}
    for text in expected.warnings:
        assert text in said
    assert (report / "reliability.png").stat().st_size > 10_000
    potential = models.load(out)
    assert isinstance(potential, Calibrated)
    assert potential.level == 0.8


def test_without_test_frames_half_of_the_groups_judge_the_other_half(model, tmp_path):
    report = tmp_path / "report"
    arguments = ("calibrate", model, DATA / "test.extxyz", "--output", tmp_path / "c.pt", "--report", report)
    assert command(*arguments) == 0
    judged = json.loads((report / "coverage.json").read_text())["all"]["atoms"]
    everything = sum(len(frame.atoms) for frame in read(DATA / "test.extxyz"))
    assert 0 < judged < everything
    assert sum(found.atoms for found in models.load(tmp_path / "c.pt").calibrations.values()) == everything


def test_new_grades_leave_out_the_calibration(graded, tmp_path, capsys):
    assert command("calibrate", graded, DATA / "valid.extxyz", "--output", tmp_path / "c.pt") == 0
    assert command("grade", tmp_path / "c.pt", DATA / "train.extxyz", "--output", tmp_path / "g.pt") == 0
    assert "is left out" in capsys.readouterr().out
    again = models.load(tmp_path / "g.pt")
    assert isinstance(again, Graded)
    assert isinstance(again.potential, ACE)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("calibrate", "MODEL", DATA / "valid.extxyz", "--score", "gamma"), "grade it first"),
        (("calibrate", "MODEL", DATA / "valid.extxyz", "--level", "1.2"), "between 0 and 1"),
        (("calibrate", "MODEL", "nowhere.extxyz"), "no such file"),
        (("grade", "MODEL", DATA / "valid.extxyz", "--tolerance", "0.9"), "more than 1"),
        (("grade", "chgent", DATA / "valid.extxyz"), "did you mean"),
    ],
)
def test_mistakes_end_in_one_line(model, tmp_path, capsys, arguments, words):
    named = [model if word == "MODEL" else word for word in arguments]
    assert command(*named, "--output", tmp_path / "out.pt") == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert words in error
    assert not (tmp_path / "out.pt").exists()


def test_nothing_is_overwritten(model, graded, capsys):
    assert command("grade", model, DATA / "valid.extxyz", "--output", graded) == 1
    assert "is there already" in capsys.readouterr().err


def test_the_reliability_diagram_shows_every_element(model, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "save", lambda figure, path: drawn.append(figure))
    report = coverage(calibrate(models.load(model), read(DATA / "train.extxyz")), read(DATA / "test.extxyz"))
    plots.reliability(report, tmp_path / "r.png")
    lines = {line.get_label(): line for line in drawn[0].axes[0].lines}
    everything = next(line for label, line in lines.items() if label.startswith("all"))
    np.testing.assert_array_equal(everything.get_ydata(), report.all.coverage)
    assert {label.split(" ")[0] for label in lines} >= {"Li", "P", "S", "all"}
