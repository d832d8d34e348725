"""What a user can do wrong on the command line ends in a message with a remedy: no traceback, a non-zero status."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator

import finetune
from finetune import models
from finetune.backbones.chgnet import CHGNet

from .commands import CONFIGS, THEIR_WARNINGS, command, fit_arguments, labelled, write_parts

pytestmark = THEIR_WARNINGS

DATA = Path(__file__).parents[1] / "data/starting"
Change = Callable[[Atoms], None]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a few real frames: train, valid, test."""
    return write_parts(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    """A tiny model."""
    path = tmp_path_factory.mktemp("model") / "tiny.pt"
    finetune.save(CHGNet.tiny(), path)
    return path


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command that must fail, and returns what it says; every one of `words` must be in it."""

    def run(*arguments: str | Path, words: tuple[str, ...] = ()) -> str:
        capsys.readouterr()
        status = command(*arguments)
        out, errors = capsys.readouterr()
        assert status in (1, 2)
        assert "error: " in errors
        assert "Traceback" not in out + errors
        for word in words:
            assert word in errors, errors
        return errors

    return run


def broken(path: Path, change: Change, part: str = "train") -> Path:
    """Three real frames in a file, the second of which is changed."""
    frames = labelled(part)[:3]
    change(frames[1])
    ase.io.write(path, frames)
    return path


def set_info(key: str, value: object) -> Change:
    return lambda atoms: atoms.info.__setitem__(key, value)


def set_force(value: float) -> Change:
    return lambda atoms: atoms.arrays["REF_forces"].__setitem__((3, 1), value)


def short_forces(atoms: Atoms) -> None:
    atoms.arrays["REF_forces"] = np.ones((len(atoms), 2))


def unlabel(atoms: Atoms) -> None:
    del atoms.info["REF_energy"], atoms.info["REF_stress"], atoms.arrays["REF_forces"]


def overlap(atoms: Atoms) -> None:
    atoms.positions[5] = atoms.positions[2] + [0.05, 0, 0]


def flatten(atoms: Atoms) -> None:
    atoms.cell[2] = atoms.cell[1]


def open_cell(atoms: Atoms) -> None:
    atoms.set_cell(None)
    atoms.pbc = False


def unknown_element(atoms: Atoms) -> None:
    atoms.numbers[0] = 95


def other_keys(atoms: Atoms) -> None:
    atoms.calc = SinglePointCalculator(atoms, energy=atoms.info.pop("REF_energy"))
    del atoms.info["REF_stress"], atoms.arrays["REF_forces"]


FRAMES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "no labels": (unlabel, ("has no energy, forces or stress", "label it or drop it")),
    "energy is NaN": (set_info("REF_energy", np.nan), ("energy", "NaN or infinite", "leave the label out")),
    "force is NaN": (set_force(np.nan), ("forces", "NaN or infinite")),
    "force is infinite": (set_force(np.inf), ("forces", "NaN or infinite")),
    "wrong shape of energy": (set_info("REF_energy", np.ones(3)), ("energy of shape (3,)", "must be")),
    "wrong shape of stress": (set_info("REF_stress", np.ones(4)), ("stress of shape (4,)", "must be")),
    "wrong shape of forces": (short_forces, ("forces of shape", "must be")),
    "unknown element": (unknown_element, ("does not know Am", "drop the frame")),
    "atoms on top of each other": (overlap, ("atoms 2 and 5 on top of each other", "mend or drop it")),
    "no volume": (flatten, ("zero volume", "set the cell or set pbc to False")),
    "no cell for stress": (open_cell, ("has a stress but no full cell",)),
}


@pytest.mark.parametrize("case", FRAMES)
def test_a_frame_that_cannot_be_used_is_named_with_its_file_and_the_remedy(tmp_path, model, refused, case):
    change, words = FRAMES[case]
    path = broken(tmp_path / "mine.extxyz", change)
    refused("evaluate", model, path, words=(f"frame 1 of {path}", *words))


@pytest.mark.parametrize(
    ("part", "case"),
    [
        *(("valid", case) for case in ("no labels", "force is NaN", "unknown element", "atoms on top of each other")),
        *((part, "unknown element") for part in ("train", "test")),
    ],
)
def test_a_fit_stops_before_it_starts_where_a_frame_cannot_be_used(tmp_path, files, refused, part, case):
    change, words = FRAMES[case]
    path = broken(tmp_path / "mine.extxyz", change, part)
    refused(*fit_arguments({**files, part: path}, tmp_path / "run"), words=(f"frame 1 of {path}", *words))
    assert not (tmp_path / "run" / models.LAST).exists()


def test_labels_in_another_unit_are_not_evaluated(tmp_path, model, refused):
    frames = [atoms for part in ("train", "valid", "test") for atoms in ase.io.read(DATA / f"{part}.extxyz", ":")]
    for atoms in frames:
        atoms.info["REF_energy"] /= len(atoms)
    ase.io.write(tmp_path / "wrong.extxyz", frames)
    refused("evaluate", model, tmp_path / "wrong.extxyz", words=("do not grow with the number of atoms", "eV/atom"))


def test_mixed_label_keys_are_refused(tmp_path, model, refused):
    path = broken(tmp_path / "mixed.traj", other_keys)
    refused("evaluate", model, path, words=("mixed label keys", f"frame 1 of {path}"))


def test_a_label_key_that_is_not_there_is_refused(files, model, refused):
    words = (str(files["valid"]), "'REF_enregy'", "REF_energy")
    refused("evaluate", model, files["valid"], "--keys.energy", "REF_enregy", words=words)


@pytest.mark.parametrize("content", [b"", b"nothing that can be read\n", b"\x00\x01\x02\xff" * 40])
def test_an_unreadable_or_empty_file_is_named(tmp_path, model, refused, content):
    path = tmp_path / "mine.extxyz"
    path.write_bytes(content)
    refused("evaluate", model, path, words=(str(path), "cannot read" if content else "is empty"))


@pytest.mark.parametrize("name", ["evaluate", "fit", "predict"])
def test_a_file_that_is_not_there_is_named_with_the_nearest(tmp_path, files, model, refused, name):
    wrong = files["train"].with_name("trian.extxyz")
    arguments = {
        "evaluate": ("evaluate", model, wrong),
        "fit": fit_arguments({**files, "train": wrong}, tmp_path / "run"),
        "predict": (
            "predict",
            "--model.potential",
            model,
            "--data.predict",
            wrong,
            "--trainer.default_root_dir",
            tmp_path,
        ),
    }
    refused(*arguments[name], words=("no such file", "did you mean train.extxyz?"))


@pytest.mark.parametrize("name", ["sample", "label", "learn", "compare"])
def test_a_file_in_the_place_of_a_directory_is_told(tmp_path, refused, name):
    (tmp_path / "taken").write_text("something")
    inside, compared = tmp_path / "taken" / "out.extxyz", tmp_path / "compare.yaml"
    row = "{class_path: finetune.comparison.PairCurves, init_args: {elements: [Li]}}"
    compared.write_text(f"columns: {{A: chgnet}}\nobservables: [{row}]\n")
    arguments = {
        "sample": ("sample", "-c", "configs/sample/dimers.yaml", "--output", inside),
        "label": ("label", "data/reference/atoms.extxyz", "-c", "configs/label/chgnet.yaml", "--output", inside),
        "learn": ("learn", "-c", "configs/learn/teacher.yaml", "--directory", tmp_path / "taken"),
        "compare": ("compare", "-c", compared, "--output", tmp_path / "taken"),
    }
    refused(*arguments[name], words=(f"{tmp_path / 'taken'} is a file", "choose another directory"))


def test_a_fit_without_data_says_which_option_is_missing(tmp_path, refused):
    arguments = ("fit", *CONFIGS, "--data.train", "null", "--trainer.default_root_dir", tmp_path)
    refused(*arguments, words=("no train frames; give --data.train",))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fti"], ("unknown command 'fti'; did you mean 'fit'",)),
        (["fit", "--data.trian", "x.extxyz"], ("--data.trian", "did you mean", "--data.train")),
        (["fit", "--model.potentail", "chgnet"], ("--model.potentail", "did you mean", "--model.potential")),
        (["fit", "-c", "configs/chgnt.yaml"], ("configs/chgnt.yaml",)),
        (["fit", "--data.batch_edges", "many"], ("data.batch_edges", "many")),
        (["fit", "--model.loss.kind", "hubert"], ("loss.kind", "hubert", "huber")),
        (["evaluate"], ("model",)),
        (["evaluate", "chgnet", "x.extxyz", "--jsn", "out.json"], ("--jsn",)),
    ],
)
def test_wrong_usage_is_told_with_what_was_meant(refused, arguments, words):
    refused(*arguments, words=words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("model: {potentail: chgnet}", ("potentail", "did you mean", "potential")),
        ("data: {batch_edge: 4000}", ("batch_edge", "did you mean", "batch_edges")),
        ("modle: {potential: chgnet}", ("modle", "did you mean", "model")),
        ("model: {loss: {force: 1.0}}", ("force", "did you mean", "forces")),
        ("trainer: {max_epoch: 3}", ("max_epoch", "did you mean", "max_epochs")),
        ("model: {groups: {readout: 0}}", ("unknown parameter group 'readout'; did you mean 'readouts'",)),
        ("model: {loss: {energy: -1}}", ("loss weight of energy", "-1", "give 0 or more")),
        ("data: {batch_edges: 0}", ("batch_edges 0 must be positive",)),
        ("model: [not, a, mapping", ("mine.yaml",)),
        ("model: {potential: {class_path: finetune.backbones.chgnet.CHGNt}}", ("CHGNt",)),
        ("model: {potential: {class_path: finetune.backbones.chgnet.CHGNet, init_args: {dtyp: x}}}", ("dtyp",)),
    ],
)
def test_a_config_that_cannot_be_used_is_told_with_what_was_meant(tmp_path, files, refused, text, words):
    (tmp_path / "mine.yaml").write_text(text)
    refused(*fit_arguments(files, tmp_path / "run", "-c", tmp_path / "mine.yaml"), words=words)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chgnt", ("unknown model 'chgnt'; did you mean 'chgnet'",)),
        ("chgnet:0.3", ("unknown CHGNet model '0.3'; did you mean '0.3.0'",)),
        ("mace:medum-mpa-0", ("did you mean 'medium-mpa-0'",)),
        ("runs/nowhere", ("no model file or run directory runs/nowhere", "check the path")),
    ],
)
@pytest.mark.parametrize("where", ["evaluate", "fit"])
def test_an_unknown_model_is_told_with_the_nearest_known(tmp_path, files, refused, name, words, where):
    if where == "evaluate":
        refused("evaluate", name, files["valid"], words=words)
    else:
        refused(*fit_arguments(files, tmp_path / "run", "--model.potential", name), words=words)


class Malicious:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("where", ["evaluate", "fit", "class_path", "resume", "validate"])
def test_a_pickle_that_is_not_trusted_is_not_executed(tmp_path, files, refused, where):
    mark = tmp_path / "executed"
    foreign, checkpoint = tmp_path / "evil.model", tmp_path / "evil.ckpt"
    torch.save(Malicious(mark), foreign)
    checkpoint.write_bytes(pickle.dumps({"state_dict": Malicious(mark)}, protocol=2))
    fit = fit_arguments(files, tmp_path / "run")
    built = ("--model.potential", "finetune.backbones.mace.MACE", "--model.potential.foundation", foreign)
    arguments = {
        "evaluate": ("evaluate", foreign, files["valid"]),
        "fit": (*fit, "--model.potential", foreign),
        "class_path": (*fit[:3], *fit[5:], *built),
        "resume": (*fit, "--ckpt_path", checkpoint),
        "validate": ("validate", *fit[1:], "--ckpt_path", checkpoint),
    }
    words = ("evil.ckpt",) if where in ("resume", "validate") else ("is a Python pickle", "If you trust", "--trusted")
    refused(*arguments[where], words=words)
    assert not mark.exists()


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_truncated_checkpoint_is_told(tmp_path, files, model, refused, share):
    whole = model.read_bytes()
    (tmp_path / "run").mkdir()
    for name in (models.BEST, models.LAST):
        (tmp_path / "run" / name).write_bytes(whole[: int(share * len(whole))])
    refused("evaluate", tmp_path / "run", files["valid"], words=("best.ckpt is damaged or not a checkpoint",))
    fit = fit_arguments(files, tmp_path / "run", "--ckpt_path", "last")
    refused(*fit, words=("last.ckpt is damaged or not a checkpoint",))


def test_a_model_file_cannot_be_gone_on_with_as_if_it_were_a_run(tmp_path, files, model, refused):
    refused(*fit_arguments(files, tmp_path / "run", "--ckpt_path", model), words=("tiny.pt",))


def test_there_is_nothing_to_go_on_with(tmp_path, files, refused):
    fit = fit_arguments(files, tmp_path / "run", "--ckpt_path", "last")
    refused(*fit, words=("holds no last.ckpt to go on with", "leave --ckpt_path out"))


@contextlib.contextmanager
def room_for(size: int) -> Iterator[None]:
    """Files may not grow beyond a size: write() fails as it does on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_ends_a_fit_with_a_message_and_no_half_checkpoint(tmp_path, files, refused):
    with room_for(30_000):
        refused(*fit_arguments(files, tmp_path / "run"), words=("cannot write", ".ckpt", "free some space"))
    assert [path.name for path in (tmp_path / "run").iterdir() if "ckpt" in path.name] == []


def test_a_full_disk_ends_a_prediction_with_a_message(tmp_path, files, model, refused):
    arguments = ("predict", "--model.potential", model, "--data.predict", files["train"])
    with room_for(3000):
        refused(*arguments, "--trainer.default_root_dir", tmp_path, words=("predictions.extxyz",))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--json", "--parity"])
def test_an_output_that_cannot_be_written_is_named(tmp_path, files, model, refused, option):
    (tmp_path / "file").write_text("not a folder")
    out = tmp_path / "file" / {"--json": "out.json", "--parity": "out.png"}[option]
    refused("evaluate", model, files["valid"], option, out, words=(str(tmp_path / "file"),))


def test_a_run_directory_that_cannot_be_made_is_named(tmp_path, files, refused):
    (tmp_path / "file").write_text("not a folder")
    refused(*fit_arguments(files, tmp_path / "file" / "run"), words=(str(tmp_path / "file"),))


def test_a_loss_that_runs_away_is_told_with_what_to_do(tmp_path, files, refused):
    more = ("--model.optimizer.lr", "1e30", "--trainer.callbacks", "null", "--model.warmup", "0")
    refused(*fit_arguments(files, tmp_path / "run", *more), words=("the loss is", "lower the learning rate"))


def test_a_real_process_shows_no_traceback(tmp_path, model):
    path = broken(tmp_path / "mine.extxyz", unlabel)
    script = [sys.executable, str(Path(sys.executable).with_name("finetune"))]
    done = subprocess.run([*script, "evaluate", str(model), str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.strip().splitlines() == [
        f"error: frame 1 of {path} has no energy, forces or stress; label it or drop it"
    ]
    assert done.stdout == ""
