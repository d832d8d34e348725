"""A fit that was killed and is resumed ends with the weights of one that was not, to the bit."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from finetune import models

from .commands import THEIR_WARNINGS, command, fit_arguments, process, write_parts
from .structures import ROOT

pytestmark = THEIR_WARNINGS

EPOCHS = 10
# far too high a learning rate, so that every epoch moves far; and an anchor
MORE = (
    "--trainer.max_epochs",
    str(EPOCHS),
    "--data.test",
    "null",
    "--model.optimizer.lr",
    "1.0",
    "--model.anchor",
    "0.01",
)
MOMENTS = (0.0, 0.03, 0.08)  # s after a checkpoint was written: at once, somewhere in the next epoch
PATIENCE = 240  # s, on a busy machine
# AdamW that spoils all weights at its fifth step: two batches an epoch, so the third epoch and all later ones are bad.
SPOILT = """
import torch

class Spoilt(torch.optim.AdamW):
    def step(self, closure=None):
        loss = super().step(closure)
        parameters = [p for group in self.param_groups for p in group["params"] if p in self.state]
        if int(max(float(self.state[p]["step"]) for p in parameters)) == 5:
            with torch.no_grad():
                for p in parameters:
                    p.add_(30.0)
        return loss
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a few real frames: train, valid, test."""
    return write_parts(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def uninterrupted(files, tmp_path_factory) -> Path:
    """The run directory of a fit that nothing stopped."""
    directory = tmp_path_factory.mktemp("uninterrupted") / "run"
    torch.set_num_threads(1)
    assert command(*fit_arguments(files, directory, *MORE)) == 0
    return directory


def changes(path: Path, fit: subprocess.Popen[bytes]) -> Iterator[None]:
    """Yields each time that a running fit has replaced a file."""
    seen, end = 0, time.monotonic() + PATIENCE
    while time.monotonic() < end and fit.poll() is None:
        now = path.stat().st_mtime_ns if path.exists() else 0
        if now != seen:
            seen = now
            yield
        time.sleep(0.002)


@pytest.fixture(scope="module")
def killed(files, tmp_path_factory) -> list[Path]:
    """What `kill -9` leaves on the disk at several moments of a fit.

    All moments but the last are seen by copying the directory while the process is stopped: the disk cannot tell.
    """
    base = tmp_path_factory.mktemp("killed")
    fit = process(*fit_arguments(files, base / "run", *MORE), log=base / "log")
    left: list[Path] = []
    try:
        for moment, _ in zip(MOMENTS, changes(base / "run" / models.LAST, fit), strict=False):
            time.sleep(moment)
            fit.send_signal(signal.SIGSTOP)
            left.append(base / f"after {moment} s" / "run")
            shutil.copytree(base / "run", left[-1])
            fit.send_signal(signal.SIGCONT)
    finally:
        fit.kill()
        fit.wait()
    assert fit.returncode == -signal.SIGKILL, (base / "log").read_text()[-2000:]
    assert len(left) == len(MOMENTS)
    return [*left[:-1], base / "run"]


def copy_of(directory: Path, there: Path) -> Path:
    shutil.copytree(directory, there)
    return there


def content(directory: Path, name: str) -> dict:
    return torch.load(directory / name, weights_only=True)


def assert_equal_runs(one: Path, other: Path) -> None:
    """Weights, averaged weights, optimiser, history and figures are the same to the bit."""
    for name in (models.BEST, models.LAST):
        a, b = content(one, name), content(other, name)
        assert (a["epoch"], a["global_step"]) == (b["epoch"], b["global_step"])
        for key in ("state_dict", "current_model_state"):
            assert a[key].keys() == b[key].keys()
            assert all(torch.equal(a[key][k], b[key][k]) for k in a[key]), key
        assert same(a["optimizer_states"], b["optimizer_states"])
        assert same(a["potential"], b["potential"])
    for name in ("metrics.csv", "before.json", "after.json"):
        assert (one / name).read_text() == (other / name).read_text(), name
    assert sorted(path.name for path in one.iterdir()) == sorted(path.name for path in other.iterdir())


def same(a: object, b: object) -> bool:
    """Equal containers of tensors and plain values."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return isinstance(b, list | tuple) and len(a) == len(b) and all(map(same, a, b))
    return a == b


def test_the_fit_changes_weights_in_every_epoch(uninterrupted):
    best, last = content(uninterrupted, models.BEST), content(uninterrupted, models.LAST)
    assert last["epoch"] == EPOCHS - 1
    assert not same(last["state_dict"], last["current_model_state"])  # the average is not the last step
    losses = [line.split(",")[3] for line in (uninterrupted / "metrics.csv").read_text().splitlines()[1:]]
    assert len(set(losses)) == EPOCHS
    # which epoch is the best depends on the processor's kernels, that it is the lowest loss does not
    assert best["epoch"] == min(range(EPOCHS), key=lambda k: float(losses[k]))


def test_the_best_checkpoint_is_that_of_an_earlier_epoch_where_later_ones_are_worse(files, tmp_path, monkeypatch):
    """Also after the run directory was copied and the fit resumed in it, and its errors are those of that epoch."""
    (tmp_path / "spoilt.py").write_text(SPOILT)
    monkeypatch.syspath_prepend(tmp_path)

    def fit(directory: Path, epochs: int, *more: str) -> Path:
        settings = ["--model.optimizer", "spoilt.Spoilt", "--model.optimizer.lr", "1e-3", "--model.schedule"]
        settings += ["constant", "--model.warmup", "0", "--data.test", "null", "--data.batch_edges", "1500"]
        settings += ["--allow", "spoilt"]
        assert command(*fit_arguments(files, directory, *settings, "--trainer.max_epochs", str(epochs), *more)) == 0
        return directory

    run = fit(tmp_path / "run", 4)
    best = content(run, models.BEST)
    losses = [float(line.split(",")[3]) for line in (run / "metrics.csv").read_text().splitlines()[1:]]
    assert min(losses[2:]) > 10 * max(losses[:2]), losses
    assert content(run, models.LAST)["epoch"] == 3
    assert best["epoch"] < 2
    resumed = fit(copy_of(fit(tmp_path / "killed", 3), tmp_path / "copy"), 4, "--ckpt_path", "last")
    short = fit(tmp_path / "short", best["epoch"] + 1)
    for other in (content(resumed, models.BEST), content(short, models.LAST)):
        assert other["epoch"] == best["epoch"]
        assert same(other["state_dict"], best["state_dict"])
    after = (short / "after.json").read_text()
    assert (run / "after.json").read_text() == (resumed / "after.json").read_text() == after


@pytest.mark.parametrize("moment", range(len(MOMENTS)))
def test_a_killed_fit_that_is_resumed_equals_one_that_was_not(killed, uninterrupted, files, tmp_path, moment):
    directory = copy_of(killed[moment], tmp_path / "run")
    assert content(directory, models.LAST)["epoch"] < EPOCHS - 1
    assert not (directory / "after.json").exists()
    assert command(*fit_arguments(files, directory, *MORE, "--ckpt_path", "last")) == 0
    assert_equal_runs(directory, uninterrupted)
    epochs = [int(line.split(",")[0]) for line in (directory / "metrics.csv").read_text().splitlines()[1:]]
    assert epochs == list(range(EPOCHS))


def test_the_metrics_of_a_killed_fit_end_with_a_whole_epoch(killed):
    for directory in killed:
        lines = (directory / "metrics.csv").read_text().splitlines()
        assert len({len(line.split(",")) for line in lines}) == 1
        assert json.loads((directory / "provenance.json").read_text())["seed"] == 0


def test_a_fit_that_was_killed_while_it_wrote_goes_on_from_the_checkpoint_before(
    killed, uninterrupted, files, tmp_path
):
    directory = copy_of(killed[0], tmp_path / "run")
    for name in (models.BEST, models.LAST, "metrics.csv"):
        whole = (uninterrupted / name).read_bytes()
        (directory / f"{name}.0123456789ab.partial").write_bytes(whole[: len(whole) // 2])
    assert command(*fit_arguments(files, directory, *MORE, "--ckpt_path", "last")) == 0
    assert_equal_runs(directory, uninterrupted)


def test_a_fit_that_was_killed_before_its_first_checkpoint_starts_again(uninterrupted, files, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    for name in ("config.yaml", "provenance.json", "before.json"):
        shutil.copy(uninterrupted / name, directory / name)
    (directory / "last.ckpt.0123456789ab.partial").write_bytes(b"half a checkpoint")
    assert command(*fit_arguments(files, directory, *MORE)) == 0
    assert_equal_runs(directory, uninterrupted)


def test_a_finished_fit_that_is_resumed_stays_as_it_is(uninterrupted, files, tmp_path):
    directory = copy_of(uninterrupted, tmp_path / "run")
    assert command(*fit_arguments(files, directory, *MORE, "--ckpt_path", "last")) == 0
    assert_equal_runs(directory, uninterrupted)


def test_a_finished_fit_can_be_given_more_epochs(uninterrupted, files, tmp_path):
    directory = copy_of(uninterrupted, tmp_path / "run")
    more = (*MORE, "--trainer.max_epochs", str(EPOCHS + 1), "--ckpt_path", "last")
    assert command(*fit_arguments(files, directory, *more)) == 0
    assert content(directory, models.LAST)["epoch"] == EPOCHS
    lines = (directory / "metrics.csv").read_text().splitlines()
    assert lines[: EPOCHS + 1] == (uninterrupted / "metrics.csv").read_text().splitlines()
    assert len(lines) == EPOCHS + 2


def test_an_anchor_that_is_strong_enough_leaves_the_weights_where_they_were(files, tmp_path):
    directory = tmp_path / "run"
    assert command(*fit_arguments(files, directory, *MORE, "--model.anchor", "1e6", "--trainer.max_epochs", "2")) == 0
    before, after = (
        json.loads((directory / f"{when}.json").read_text())["valid"]["all"] for when in ("before", "after")
    )
    assert before["forces_mae"] == pytest.approx(after["forces_mae"], rel=1e-6)
    assert command(*fit_arguments(files, tmp_path / "free", *MORE, "--trainer.max_epochs", "2")) == 0
    free = json.loads((tmp_path / "free" / "after.json").read_text())["valid"]["all"]
    assert abs(free["forces_mae"] / before["forces_mae"] - 1) > 1e-3


def test_a_fit_that_is_stopped_by_the_user_says_how_to_go_on(files, uninterrupted, tmp_path):
    fit = process(*fit_arguments(files, tmp_path / "run", *MORE), log=tmp_path / "log")
    try:
        for _ in zip(range(2), changes(tmp_path / "run" / models.LAST, fit), strict=False):
            continue
        fit.send_signal(signal.SIGINT)
        assert fit.wait(PATIENCE) == 130, (tmp_path / "log").read_text()[-2000:]
    finally:
        fit.kill()
        fit.wait()
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    assert "--ckpt_path last goes on with a fit" in said
    assert command(*fit_arguments(files, tmp_path / "run", *MORE, "--ckpt_path", "last")) == 0
    assert_equal_runs(tmp_path / "run", uninterrupted)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (("-c", "configs/mace-scratch.yaml"), ("got a fit of CHGNet, expected MACE",)),
        (
            ("-c", "configs/chgnet.yaml"),
            ("got a fit of CHGNet with angle_fea_dim ", "expected CHGNet with angle_fea_dim 64, "),
        ),
        (("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"), ("another optimiser",)),
        (("--model.groups", "{embedding: 0.0}"), ("expected Adam on interactions, readouts",)),
    ],
)
def test_resuming_with_another_model_or_optimiser_ends_in_one_line(
    uninterrupted, files, tmp_path, capfd, monkeypatch, more, words
):
    monkeypatch.chdir(ROOT)
    directory = copy_of(uninterrupted, tmp_path / "run")
    again = ("--trainer.max_epochs", str(EPOCHS + 1), "--ckpt_path", "last")
    assert command(*fit_arguments(files, directory, *MORE[4:], *more, *again)) == 1
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    for word in words:
        assert word in errors[0]
    assert content(directory, models.LAST)["epoch"] == EPOCHS - 1
