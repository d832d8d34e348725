"""`finetune` from fit to prediction, on a tiny model and real frames."""

from __future__ import annotations

import csv
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
import yaml

import finetune
from finetune.adapting import Shifted, group_of
from finetune.backbones.chgnet import CHGNet
from finetune.calculators import calculator
from finetune.cli.main import COMMANDS
from finetune.data.reading import read

from .commands import THEIR_WARNINGS, command, fit_arguments, labelled, write_parts
from .tolerances import close

pytestmark = THEIR_WARNINGS

ROWS = ["energy_mae", "energy_rmse", "forces_mae", "forces_rmse", "forces_slope", "forces_cosine", "stress_mae"]
RUN = {
    *("best.ckpt", "last.ckpt", "config.yaml", "provenance.json", "metrics.csv", "before.json", "after.json"),
    *("parity-valid.png", "parity-test.png", "curves.png", "summary.md", "frames.json", "lock"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a few real frames: train, valid, test."""
    return write_parts(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def run(files, tmp_path_factory) -> Path:
    """The run directory of a short fit."""
    directory = tmp_path_factory.mktemp("runs") / "run"
    assert command(*fit_arguments(files, directory)) == 0
    return directory


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A model file to start from."""
    torch.manual_seed(1)
    finetune.save(CHGNet.tiny(), tmp_path_factory.mktemp("model") / "start.pt")
    return next(tmp_path_factory.getbasetemp().glob("model*/start.pt"))


def rows(directory: Path) -> list[dict[str, str]]:
    with (directory / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


def test_help_lists_every_command_without_loading_torch(tmp_path):
    code = (
        "import sys; from finetune.cli.main import main; status = main(['--help']); "
        "assert 'torch' not in sys.modules; sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=True)
    for name, (_, about) in COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert about in done.stdout
    assert done.stderr == ""


def test_the_installed_command_answers(tmp_path):
    script = Path(sys.executable).with_name("finetune")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout.strip() == finetune.__version__


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_of_its_own(name, capsys):
    assert command(name, "--help") == 0
    text, errors = capsys.readouterr()
    assert text.startswith(f"usage: finetune {name} ")
    assert errors == ""
    described = text.split("options:")[0]
    assert len(described.split("\n\n", 1)[1].strip()) > 30
    assert "Runs the full" not in described  # Lightning's own words


def test_help_of_fit_explains_the_options_of_this_project(capsys):
    command("fit", "--help")
    text = " ".join(capsys.readouterr().out.split())
    for words in (
        "--model.potential",
        "a model name (`chgnet`, `mace:mini`",
        "--model.loss.energy",
        "--model.groups",
        "0 freezes a group",
        "--data.train",
        "frames to learn from",
        "--data.batch_edges",
        "--data.keys.energy",
    ):
        assert words in text, words


def test_help_of_fit_leaves_lightnings_own_options_to_those_who_ask(capsys):
    command("fit", "--help")
    short = capsys.readouterr().out
    command("fit", "--help-all")
    whole = capsys.readouterr().out
    assert len(short.splitlines()) < 160 < 500 < len(whole.splitlines())
    assert "--trainer.max_epochs" in short
    assert "--trainer.barebones" not in short
    assert "--trainer.barebones" in whole
    command("predict", "--help")
    other = capsys.readouterr().out
    assert "--model.potential" in other
    assert "--data.predict" in other
    assert "--model.warmup" not in other


def test_models_are_listed_with_their_licences(capsys):
    assert command("models") == 0
    text = capsys.readouterr().out
    lines = {line.split()[0]: line for line in text.splitlines() if ":" in line}
    assert "BSD" in lines["chgnet:0.3.0"]
    assert "MIT" in lines["mace:medium-mpa-0"]
    assert "no commercial use" in lines["mace:mh-1"]


def test_a_run_directory_holds_all_that_it_should(run):
    assert {path.name for path in run.iterdir()} == RUN
    assert (run / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert all(path.stat().st_size > 100 for path in run.iterdir() if path.name != "lock")
    summary = (run / "summary.md").read_text()
    for words in ("validation frames", "test frames", "before → after", "crystal", "Li"):
        assert words in summary


def test_metrics_have_one_row_per_epoch(run):
    table = rows(run)
    assert [int(row["epoch"]) for row in table] == [0, 1, 2]
    assert [int(row["step"]) for row in table] == sorted({int(row["step"]) for row in table})
    for row in table:
        assert all(math.isfinite(float(value)) for value in row.values())
    for stage in ("train", "valid"):
        assert {f"{stage}/loss", f"{stage}/energy_mae", f"{stage}/forces_mae", f"{stage}/stress_mae"} <= table[0].keys()
    rates = [float(row["learning_rate"]) for row in table]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 0.2 * rates[0]


def test_provenance_says_how_a_run_was_made(run, files):
    content = json.loads((run / "provenance.json").read_text())
    assert content["seed"] == 0
    assert content["command"][0] == "fit"
    assert content["versions"]["torch"] == torch.__version__
    assert content["data"]["files"]["train"] == str(files["train"])
    assert (content["data"]["train"], content["data"]["valid"]) == (8, 4)
    assert len(content["data"]["sha256"]) == 64
    fitted = json.loads((run / "frames.json").read_text())
    frames = read(str(files["train"]))
    assert {part: len(fitted[part]) for part in ("train", "valid")} == {"train": 8, "valid": 4}
    assert fitted["train"] == sorted(frame.structure_hash[:16] for frame in frames)
    lithium = [int((frame.atoms.numbers == 3).sum()) for frame in frames]
    assert fitted["elements"]["Li"] == [sum(n > 0 for n in lithium), sum(lithium)]


def test_the_same_config_gives_the_same_weights_again(run, files, tmp_path):
    again = tmp_path / "again"
    assert command("fit", "-c", run / "config.yaml", "--trainer.default_root_dir", again) == 0
    one, two = (torch.load(path / "last.ckpt", weights_only=True)["state_dict"] for path in (run, again))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert (run / "metrics.csv").read_text() == (again / "metrics.csv").read_text()
    first, second = (json.loads((path / "provenance.json").read_text())["data"]["sha256"] for path in (run, again))
    assert first == second


def test_another_seed_gives_other_weights(run, files, tmp_path):
    other = tmp_path / "other"
    assert command(*fit_arguments(files, other, "--seed_everything", "1", "--trainer.max_epochs", "1")) == 0
    one, two = (torch.load(path / "last.ckpt", weights_only=True)["state_dict"] for path in (run, other))
    assert not any(torch.equal(one[key], two[key]) for key in one if key.endswith("atom_embedding.embedding.weight"))


def test_a_fit_learns(files, tmp_path):
    directory = tmp_path / "run"
    more = (
        "--trainer.max_epochs",
        "25",
        "--trainer.callbacks",
        "null",
        "--model.loss.energy",
        "0.1",
        "--data.test",
        "null",
    )
    assert command(*fit_arguments(files, directory, *more)) == 0
    losses = [float(row["train/loss"]) for row in rows(directory)]
    assert min(losses[-3:]) < 0.8 * losses[0]


def test_evaluate_writes_exactly_the_agreed_figures(run, files, tmp_path, capsys):
    out = tmp_path / "figures.json"
    assert command("evaluate", run, files["valid"], "--json", out) == 0
    content = json.loads(out.read_text())
    assert set(content) >= {"all", "family", "element", "frames"}
    assert set(content) - {"all", "family", "element", "frames"} == {"energy_shifted", "alignment", "units", "by_group"}
    assert content["all"].keys() >= {*ROWS}
    assert content["frames"] == 4
    assert set(content["family"]) == {frame.info["family"] for frame in labelled("valid")}
    assert set(content["element"]) == {symbol for frame in labelled("valid") for symbol in frame.symbols}
    after = json.loads((run / "after.json").read_text())["valid"]
    for name, value in after["all"].items():
        assert content["all"][name] == pytest.approx(value, rel=1e-6)
    table = capsys.readouterr().out
    for words in ("meV/atom", "meV/Å", "meV/Å³", "slope", "cosine", "all", "Li"):
        assert words in table
    assert "shift" not in table


def test_evaluate_agrees_with_the_calculator(run, files, tmp_path):
    command("evaluate", run, files["test"], "--json", tmp_path / "out.json")
    content = json.loads((tmp_path / "out.json").read_text())["all"]
    ours, errors = calculator(run, device="cpu"), {"energy": [], "forces": [], "stress": []}
    for atoms in labelled("test"):
        ours.calculate(atoms)
        errors["energy"].append((ours.results["energy"] - atoms.info["REF_energy"]) / len(atoms))
        errors["forces"].append((ours.results["forces"] - atoms.arrays["REF_forces"]).ravel())
        full = [0, 1, 2, 3, 3, 4, 4, 5, 5]
        errors["stress"].append((ours.results["stress"] - atoms.info["REF_stress"])[full])
    for name, values in errors.items():
        assert content[f"{name}_mae"] == pytest.approx(1e3 * np.abs(np.hstack(values)).mean(), rel=1e-6)


def test_evaluate_says_when_it_shifted_energies(files, tmp_path, capsys):
    assert command("evaluate", "chgnet", files["valid"], "--json", tmp_path / "out.json") == 0
    assert "energy shift per element fitted to the frames of the other groups" in " ".join(
        capsys.readouterr().out.split()
    )
    assert json.loads((tmp_path / "out.json").read_text())["energy_shifted"] is True


def test_predictions_stand_in_the_order_of_the_input(run, files, tmp_path):
    out = tmp_path / "out"
    arguments = ("--data.predict", files["test"], "--trainer.default_root_dir", out, "--trainer.accelerator", "cpu")
    assert command("predict", "--model.potential", run, *arguments, "--data.batch_edges", "700") == 0
    predicted = ase.io.read(out / "predictions.extxyz", ":")
    ours = calculator(run, device="cpu")
    for atoms, there in zip(labelled("test"), predicted, strict=True):
        assert (atoms.numbers == there.numbers).all()
        close(there.get_potential_energy(), ours.get_potential_energy(atoms), "printed")
        close(there.get_forces(), ours.get_forces(atoms), "printed")
        close(there.get_stress(), ours.get_stress(atoms), "printed")


def test_structures_to_predict_need_no_labels(run, tmp_path):
    atoms = labelled("test")[0]
    bare = type(atoms)(atoms.numbers, atoms.positions)
    ase.io.write(tmp_path / "bare.xyz", bare, format="extxyz")
    arguments = ("--data.predict", tmp_path / "bare.xyz", "--trainer.default_root_dir", tmp_path)
    assert command("predict", "--model.potential", run, *arguments) == 0
    there = ase.io.read(tmp_path / "predictions.extxyz")
    close(there.get_potential_energy(), calculator(run, device="cpu").get_potential_energy(bare), "printed")
    assert "stress" not in there.calc.results


@pytest.mark.parametrize("how", ["--model.potential", "--ckpt_path"])
@pytest.mark.parametrize("name", ["validate", "test"])
def test_validate_and_test_tell_the_errors_of_a_run(run, files, tmp_path, capsys, name, how):
    part = {"validate": "valid", "test": "test"}[name]
    model = [how, run] if how == "--model.potential" else ["-c", run / "config.yaml", how, run / "best.ckpt"]
    data = (f"--data.{part}", files[part], "--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu")
    assert command(name, *model, *data) == 0
    text = capsys.readouterr().out
    expected = json.loads((run / "after.json").read_text())[part]["all"]["forces_mae"] / 1e3
    assert f"{expected:.5f}"[:6] in text


def test_a_run_is_a_model_to_go_on_from(run, files, tmp_path):
    arguments = fit_arguments(files, tmp_path / "next", "--model.potential", run, "--data.units", "false")
    assert command(*arguments) == 0
    tuned = finetune.load(tmp_path / "next")
    assert isinstance(tuned, Shifted)
    assert isinstance(tuned.potential, CHGNet)


def test_a_run_is_not_overwritten(run, files, capsys):
    kept = {path.name: path.read_bytes() for path in run.iterdir()}
    assert command(*fit_arguments(files, run)) == 1
    errors = capsys.readouterr().err
    assert "holds a fit already" in errors
    assert "--ckpt_path last goes on with it" in errors
    assert {path.name: path.read_bytes() for path in run.iterdir()} == kept


def test_every_run_without_a_name_has_a_directory_of_its_own(files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = fit_arguments(files, tmp_path, "--trainer.max_epochs", "1")
    where = arguments.index("--trainer.default_root_dir")
    assert command(*arguments[:where], *arguments[where + 2 :]) == 0
    [directory] = (tmp_path / "runs").iterdir()
    assert {path.name for path in directory.iterdir()} == RUN


def test_a_fit_says_which_frames_it_took_from_its_one_file(files, tmp_path, monkeypatch):
    told: list[str] = []
    monkeypatch.setattr("finetune.data.module.rank_zero_info", told.append)
    arguments = fit_arguments(files, tmp_path / "run", "--trainer.max_epochs", "1", "--data.split", "[0.5, 0.5, 0]")
    where = arguments.index("--data.valid")
    assert command(*arguments[:where], *arguments[where + 2 :]) == 0
    test, total = len(ase.io.read(files["test"], ":")), len(ase.io.read(files["train"], ":"))
    found = re.fullmatch(rf"frames: train (\d+), valid (\d+) \(of train's groups\), test {test}", told[0])
    assert found, told
    train, valid = map(int, found.groups())
    assert train + valid == total
    assert valid > 0


def tuned(files, start: Path, directory: Path, *more: str) -> dict[str, torch.Tensor]:
    """Weights after a fit that starts from `start`."""
    common = (
        "--model.potential",
        start,
        "--data.units",
        "false",
        "--trainer.callbacks",
        "null",
        "--trainer.max_epochs",
        "1",
    )
    assert command(*fit_arguments(files, directory, *common, *more)) == 0
    state = torch.load(directory / "last.ckpt", weights_only=True)["state_dict"]
    return {name.removeprefix("potential.potential."): value for name, value in state.items()}


@pytest.mark.parametrize("frozen", [["embedding"], ["interactions", "readouts"]])
def test_frozen_groups_keep_their_weights_to_the_bit(files, start, tmp_path, frozen):
    potential = finetune.load(start)
    after = tuned(files, start, tmp_path / "run", "--model.groups", json.dumps(dict.fromkeys(frozen, 0)))
    changed = {group_of(potential, n) for n, p in potential.named_parameters() if not torch.equal(p, after[n])}
    assert changed == set(potential.groups) - set(frozen)


def test_learning_rate_factors_scale_the_steps_of_a_group(files, start, tmp_path):
    potential = finetune.load(start)
    plain = ("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "1e-4", "--data.batch_edges", "1000000")
    one = tuned(files, start, tmp_path / "one", *plain)
    other = tuned(files, start, tmp_path / "other", *plain, "--model.groups", '{"readouts": 0.5}')
    for name, before in potential.named_parameters():
        factor = 0.5 if group_of(potential, name) == "readouts" else 1.0
        np.testing.assert_allclose(
            (other[name] - before).detach(), factor * (one[name] - before).detach(), rtol=1e-6, atol=1e-15
        )
    moved = {group_of(potential, n) for n, before in potential.named_parameters() if not torch.equal(before, one[n])}
    assert moved == set(potential.groups)


def test_stages_change_the_loss_in_their_epoch(files, tmp_path):
    weights = ("--model.loss.energy", "0", "--model.loss.forces", "1", "--model.loss.stress", "0.1")
    stages = (*weights, "--model.loss.stages", '[{"epoch": 2, "energy": 5.0, "stress": 0.0}]')
    assert command(*fit_arguments(files, tmp_path / "run", *stages)) == 0
    table = rows(tmp_path / "run")
    for row, weights in zip(table, [(0, 1, 0.1), (0, 1, 0.1), (5, 1, 0)], strict=True):
        terms = [float(row[f"train/{name}_loss"]) for name in ("energy", "forces", "stress")]
        assert float(row["train/loss"]) == pytest.approx(np.dot(weights, terms), rel=1e-5)


def test_a_share_of_the_labels_is_used_for_learning_curves(files, tmp_path):
    assert command(*fit_arguments(files, tmp_path / "run", "--data.fraction", "0.25", "--trainer.max_epochs", "1")) == 0
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["data"]["train"] == 2


def test_a_fit_stops_when_its_time_is_over_and_leaves_a_whole_run(files, tmp_path):
    more = ("--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:00:02")
    assert command(*fit_arguments(files, tmp_path / "run", *more)) == 0
    assert {path.name for path in (tmp_path / "run").iterdir()} == RUN
    assert float(rows(tmp_path / "run")[-1]["learning_rate"]) < 0.01


def test_the_resolved_config_is_plain_yaml_with_every_choice(run):
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["loss"]["kind"] == "huber"
    assert config["data"]["batch_edges"] == 1500
    assert config["model"]["potential"]["class_path"] == "finetune.backbones.chgnet.CHGNet"
    assert config["trainer"]["max_epochs"] == 3


def test_an_error_after_an_interrupt_counts_as_the_interrupt():
    """Lightning's tidying up fails where the interrupt comes between two epochs."""
    from finetune.cli.lightning import interrupted

    error = RuntimeError("Please call `iter(combined_loader)` first.")
    error.__context__ = KeyboardInterrupt()
    assert interrupted(error)
    assert not interrupted(RuntimeError("alone"))
