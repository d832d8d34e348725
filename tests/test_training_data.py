"""A checkpoint knows its training elements and structures; commands warn of what a model has not seen, or has."""

from __future__ import annotations

import warnings

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

import finetune
from finetune import models
from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.committee import Committee
from finetune.data.frames import fitted_to
from finetune.data.reading import read
from finetune.learning.refitting import Job, Solved
from finetune.provenance import TrainingData, training_data

from .commands import CONFIGS, THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS

WARNING = "no training frame contains P"


def crystals(symbols: str, count: int, seed: int) -> list[Atoms]:
    """Rattled rock-salt (two elements) or bcc (one) crystals, with harmonic labels."""
    rng = np.random.default_rng(seed)
    found = []
    for k in range(count):
        pair = symbols.split("-")
        made = bulk("".join(pair), "rocksalt", a=5.2) if len(pair) > 1 else bulk(pair[0], "bcc", a=3.4, cubic=True)
        moved = rng.normal(scale=0.05, size=made.positions.shape)
        made.positions += moved
        made.info |= {"REF_energy": -3.0 * len(made) + float((moved**2).sum()), "group": f"{symbols}{seed}{k}"}
        made.arrays["REF_forces"] = -2 * (moved - moved.mean(axis=0))
        found.append(made)
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    parts = {
        "train": crystals("Li-S", 4, 0) + crystals("Li", 3, 1),
        "valid": crystals("Li-S", 3, 2) + crystals("Li", 2, 3),
        "other": crystals("Li-P", 2, 4) + crystals("Li-S", 2, 5),
    }
    for name, frames in parts.items():
        ase.io.write(folder / f"{name}.extxyz", frames, format="extxyz")
    return {name: folder / f"{name}.extxyz" for name in parts}


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A fit to Li and LiS of a potential that knows P as well."""
    directory = tmp_path_factory.mktemp("run") / "run"
    data = [f"--data.{part}={files[part]}" for part in ("train", "valid")]
    assert command("fit", *CONFIGS, *data, "--trainer.max_epochs", "1", "--trainer.default_root_dir", directory) == 0
    return directory


def test_a_checkpoint_knows_the_frames_and_atoms_of_each_training_element(run, files):
    for potential in (models.load(run), models.load(run / models.LAST)):
        assert potential.training_data.elements == {3: (7, 4 * 1 + 3 * 2), 16: (4, 4)}
        assert potential.training_data == fitted_to(read(files["train"]), read(files["valid"]))


def test_training_data_survive_every_form_of_a_model(run, tmp_path):
    known = models.load(run).training_data
    finetune.save(models.load(run), tmp_path / "one.pt")
    finetune.save(Committee([models.load(run), models.load(run)]), tmp_path / "two.pt")
    for name in ("one.pt", "two.pt"):
        assert models.load(tmp_path / name).training_data == known


def test_a_committee_warns_of_what_any_member_has_not_seen():
    one, two = CHGNet.tiny(), CHGNet.tiny()
    one.training_data = training_data([np.array([3, 16])], ["a"])
    two.training_data = training_data([np.array([3, 15])], ["b"], ["c"])
    both = Committee([one, two])
    assert both.unseen([3, 15, 16]) == {15, 16}
    assert both.training_data == TrainingData({3: (1, 1)}, frozenset("ab"), frozenset("c"))
    assert Committee([CHGNet.tiny(), CHGNet.tiny()]).unseen([15]) == set()  # nothing is known of them


def test_a_model_of_an_earlier_version_loads_and_is_silent(run, tmp_path):
    content = torch.load(run / models.BEST, weights_only=True)
    del content["training"]
    content.pop("checksum")  # which earlier versions did not write
    torch.save(content, tmp_path / "old.pt")
    potential = models.load(tmp_path / "old.pt")
    assert potential.training_data is None
    assert potential.unseen([15]) == set()


def test_evaluate_warns_of_an_element_in_no_training_frame(run, files, capfd):
    with pytest.warns(UserWarning, match=WARNING):
        assert command("evaluate", run, files["other"]) == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert command("evaluate", run, files["valid"]) == 0
    assert "validated on 5 of these 5 frames" in capfd.readouterr().out


def test_predict_warns_of_an_element_in_no_training_frame(run, files, tmp_path):
    with pytest.warns(UserWarning, match=WARNING):
        assert command("predict", "-c", CONFIGS[1], "--model.potential", run, f"--data.predict={files['other']}",
                       "--trainer.default_root_dir", tmp_path) == 0  # fmt: skip


def test_a_calculator_warns_once_of_an_element_in_no_training_frame(run, files):
    atoms = ase.io.read(files["other"], 0)
    atoms.calc = finetune.calculator(run, device="cpu")
    with pytest.warns(UserWarning, match=WARNING):
        atoms.get_potential_energy()
    atoms.rattle(0.01)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        atoms.get_potential_energy()


@pytest.mark.parametrize("calculator", ["run", "committee"])
def test_md_warns_of_an_element_in_no_training_frame(run, files, tmp_path, calculator):
    model = run if calculator == "run" else [str(run), str(run)]
    (tmp_path / "md.yaml").write_text(
        "stages: [{ensemble: {class_path: finetune.md.Langevin, init_args: {temperature_K: 100}}, ps: 0.002}]\n"
    )
    with pytest.warns(UserWarning, match=WARNING):
        assert command("md", "-c", tmp_path / "md.yaml", "--structure", f"{files['other']}@0",
                       f"--calculator={model}", "--directory", tmp_path / "md") == 0  # fmt: skip


def test_labelling_with_a_model_warns_of_an_element_in_no_training_frame(run, files, tmp_path):
    settings = f"{{model: '{run}'}}"
    (tmp_path / "label.yaml").write_text(
        "labeller: {class_path: finetune.labelling.Calculated, "
        f"init_args: {{calculator: finetune.calculator, settings: {settings}}}}}\n"
    )
    with pytest.warns(UserWarning, match=WARNING):
        assert command("label", files["other"], "-c", tmp_path / "label.yaml", "--output", tmp_path / "o.extxyz") == 0


def test_export_warns_of_an_element_in_no_training_frame(run, files, tmp_path, capfd):
    assert command("export", run, "--output", tmp_path / "a.pt") == 0
    assert "no training frame contains elements other than Li, S" in capfd.readouterr().err
    ase.io.write(tmp_path / "li3p.cif", ase.io.read(files["other"], 0))
    assert command("export", run, "--output", tmp_path / "b.pt", "--structure", tmp_path / "li3p.cif") == 0
    assert WARNING in capfd.readouterr().err


def test_compare_warns_of_an_element_in_no_training_frame(run, files, tmp_path):
    from finetune.comparison import Errors, compare

    found = compare({"own": str(run)}, [Errors(files=[str(files["other"])])], tmp_path, progress=False, computed=False)
    assert WARNING in found.warnings[("Errors on labelled frames", "own")]


def test_chgnet_warns_of_the_five_elements_that_its_training_set_lacks():
    # The transfer-learned weights have a reference energy of exactly 0 where their training set has no frame.
    reference = CHGNet("r2scan").model.composition_model.fc.weight[0]
    lacking = {z for z in range(1, 95) if abs(reference[z - 1]) < 1e-6}
    assert CHGNet("r2scan").unseen(range(1, 95)) == lacking
    assert {chemical_symbols[z] for z in CHGNet().unseen(range(1, 95))} == {"Po", "At", "Rn", "Fr", "Ra"}
    assert CHGNet().unseen([84, 3]) == lacking & {84}


def test_a_closed_form_fit_and_a_refit_of_a_campaign_know_their_elements(files, tmp_path):
    start = ACE(["Li", "P", "S"], nmax=[2], lmax=[0], functions=None, cutoff=4.0)
    Solved(potential=start).fit(Job(files["train"], files["valid"], None, 0, (0,)), tmp_path / "member-0.ckpt")
    member = models.load(tmp_path / "member-0.ckpt")
    assert member.training_data.elements == {3: (7, 10), 16: (4, 4)}
    assert member.unseen([3, 15, 16]) == {15}


def test_a_fit_that_goes_on_from_a_model_remembers_the_structures_of_that(run, files, tmp_path):
    data = [f"--data.train={files['other']}", f"--data.valid={files['valid']}"]
    more = ("--trainer.max_epochs", "1", "--trainer.default_root_dir", tmp_path / "next")
    assert command("fit", "-c", CONFIGS[1], *data, "--model.potential", run, *more) == 0
    after = models.load(tmp_path / "next").training_data
    assert after.train == models.load(run).training_data.train | fitted_to(read(files["other"])).train
    assert set(after.elements) == {3, 15, 16}


def test_calibration_on_training_frames_is_refused(run, files, tmp_path, capfd):
    assert command("calibrate", run, files["train"], "--output", tmp_path / "c.pt") == 1
    error = capfd.readouterr().err
    assert "trained on 7 of these 7 frames" in error
    assert not (tmp_path / "c.pt").exists()


def test_calibration_is_refused_by_a_copy_of_the_model_and_for_some_frames(run, files, tmp_path, capfd):
    assert command("grade", run, files["train"], "--output", tmp_path / "graded.pt") == 0
    mixed = [*ase.io.read(files["valid"], ":"), ase.io.read(files["train"], 2)]
    ase.io.write(tmp_path / "mixed.extxyz", mixed, format="extxyz")
    capfd.readouterr()
    assert command("calibrate", tmp_path / "graded.pt", tmp_path / "mixed.extxyz", "--output", tmp_path / "c.pt") == 1
    error = capfd.readouterr().err
    assert "frame 5 of" in error
    assert "trained on 1 of these 6 frames" in error


def test_calibration_is_refused_where_it_is_tested_on_training_frames(run, files, tmp_path, capfd):
    arguments = ("calibrate", run, files["valid"], "--test", files["train"], "--output", tmp_path / "c.pt")
    with pytest.warns(UserWarning, match="validated on 5 of these 5 frames, which chose its epoch"):
        assert command(*arguments) == 1
    assert "trained on 7 of these 7 frames" in capfd.readouterr().err


def test_calibration_on_frames_that_the_model_has_not_seen_is_silent(run, files, tmp_path):
    fresh = crystals("Li-S", 3, 7) + crystals("Li", 2, 8)
    ase.io.write(tmp_path / "fresh.extxyz", fresh, format="extxyz")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert command("calibrate", run, tmp_path / "fresh.extxyz", "--output", tmp_path / "c.pt") == 0


def test_grades_from_other_frames_than_the_training_ones_are_warned_of(run, files, tmp_path):
    with pytest.warns(UserWarning, match="was not trained on 5 of these 5 frames"):
        assert command("grade", run, files["valid"], "--output", tmp_path / "g.pt") == 0


def test_a_warning_of_a_command_is_one_line(run, files, tmp_path):
    from .commands import process

    with process("evaluate", run, files["other"], log=tmp_path / "log") as started:
        assert started.wait(240) == 0
    lines = (tmp_path / "log").read_text().splitlines()
    assert sum(WARNING in line for line in lines) == 1
    assert next(line for line in lines if WARNING in line).startswith("warning: no training frame")
