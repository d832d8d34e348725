"""Links that somebody has planted in a directory: the file behind them stays as it was."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch

import finetune
from finetune.backbones.chgnet import CHGNet
from finetune.errors import InputError
from finetune.files import write_frames, write_text
from finetune.md import Langevin, Output, Stage, simulate
from finetune.models import save

from ..campaigns import write_config, write_files
from ..commands import command
from ..einstein import crystal

HOT = Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=2.0)
GROWING = ("log.csv", "guards.csv", "trajectory.extxyz", "trajectory.traj")
SECRET = "a file of the user\n"


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file somewhere else that nobody may change."""
    path = tmp_path / "home" / "secret"
    path.parent.mkdir()
    path.write_text(SECRET)
    return path


def run(directory: Path, ps: float = 0.02, trajectory: str = "trajectory.extxyz") -> None:
    simulate(crystal(), [Stage(HOT, ps)], directory, output=Output(trajectory=trajectory, every=1), progress=False)


def plant(path: Path, target: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(target) if kind == "symbolic" else os.link(target, path)


WRITERS = {
    "text": lambda path: write_text(path, "new"),
    "frames": lambda path: write_frames(path, [crystal()]),
    "checkpoint": lambda path: save(CHGNet.tiny(), path),
}


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("name", WRITERS)
def test_whole_files_do_not_follow_links_at_their_name_or_a_guessable_temporary_one(tmp_path, secret, name, kind):
    for planted in ("out", "out.partial", ".out.partial"):
        plant(tmp_path / planted, secret, kind)
    WRITERS[name](tmp_path / "out")
    assert secret.read_text() == SECRET
    assert not (tmp_path / "out").is_symlink()
    assert (tmp_path / "out").read_bytes() != SECRET.encode()


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("finished", [False, True])
def test_files_that_grow_do_not_follow_links(tmp_path, secret, name, kind, finished):
    directory = tmp_path / "run"
    suffix = "trajectory.traj" if name.endswith(".traj") else "trajectory.extxyz"
    run(directory, trajectory=suffix)
    content = (directory / name).read_bytes()
    secret.write_bytes(content if finished else SECRET.encode())
    if not finished:  # as a run that somebody gives away before its first checkpoint
        (directory / "checkpoint.npz").unlink()
    plant(directory / name, secret, kind)
    before = secret.read_bytes()
    if kind == "symbolic":
        with pytest.raises(InputError, match=rf"{name}: got a symbolic link, expected a file that this command writes"):
            run(directory, 0.04, suffix)
    else:  # as a backup by hard links
        run(directory, 0.04, suffix)
    assert secret.read_bytes() == before


@pytest.mark.parametrize("kind", ["symbolic", "hard"])
@pytest.mark.parametrize("words", ["learn", "label", "md"])
def test_a_planted_lock_file_is_refused_and_what_it_leads_to_stays(tmp_path, secret, words, kind, capsys):
    place = tmp_path / {"label": "out.extxyz.labels"}.get(words, "run")
    place.mkdir()
    plant(place / "lock", secret, kind)
    files = write_files(tmp_path)
    if words == "learn":
        config = write_config(tmp_path / "learn.yaml", files)
        status = command("learn", "-c", config, "--directory", place)
    elif words == "label":
        config = tmp_path / "label.yaml"
        labeller = "{class_path: finetune.labelling.Calculated, init_args: {calculator: ase.calculators.emt.EMT}}"
        config.write_text(f"labeller: {labeller}\nexecutor: {{class_path: concurrent.futures.ThreadPoolExecutor}}\n")
        status = command("label", files["starts"], "-c", config, "--output", tmp_path / "out.extxyz")
    else:
        with pytest.raises(InputError, match="expected a lock file of finetune"):
            run(place)
        status = 1
    assert status == 1
    assert secret.read_text() == SECRET
    assert words == "md" or "expected a lock file of finetune. Remove it." in capsys.readouterr().err


def test_a_file_of_the_user_that_is_called_lock_is_not_truncated(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock").write_text(SECRET)
    with pytest.raises(InputError, match="expected a lock file of finetune"):
        run(tmp_path / "run")
    assert (tmp_path / "run/lock").read_text() == SECRET


def test_a_backup_by_hard_links_stays_what_it_was_while_the_run_goes_on(tmp_path):
    run(tmp_path / "run")
    shutil.copytree(tmp_path / "run", tmp_path / "backup", copy_function=os.link)
    before = {path.name: path.read_bytes() for path in (tmp_path / "backup").iterdir()}
    run(tmp_path / "run", 0.04)
    assert {name: (tmp_path / "backup" / name).read_bytes() for name in before} == before
    run(tmp_path / "straight", 0.04)
    assert (tmp_path / "run/log.csv").read_bytes() == (tmp_path / "straight/log.csv").read_bytes()


def test_a_model_of_a_run_is_saved_over_a_link_without_changing_what_it_leads_to(tmp_path):
    save(CHGNet.tiny(), tmp_path / "first.pt")
    (tmp_path / "second.pt").symlink_to(tmp_path / "first.pt")
    before = (tmp_path / "first.pt").read_bytes()
    other = CHGNet.tiny()
    torch.nn.init.ones_(next(other.parameters()))
    save(other, tmp_path / "second.pt")
    assert (tmp_path / "first.pt").read_bytes() == before
    assert (next(finetune.load(tmp_path / "second.pt").parameters()) == 1).all()
