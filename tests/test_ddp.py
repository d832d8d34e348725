"""Two processes share the work of a fit (DDP over gloo on the CPU) and end with one model."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from pathlib import Path

import ase.io
import pytest
import torch

from finetune import models

from .commands import THEIR_WARNINGS, command, fit_arguments, labelled, process, write_parts
from .tolerances import close

pytestmark = THEIR_WARNINGS

EPOCHS = 2
PATIENCE = 400  # s, on a busy machine
RECORDER = """
import json, os, torch
from lightning.pytorch.callbacks import Callback

class Recorder(Callback):
    # which frames a process has seen, and the weights it ends with
    def __init__(self, directory: str) -> None:
        self.directory, self.seen = directory, []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.seen.append([trainer.current_epoch, batch.frames.tolist()])

    def on_train_end(self, trainer, module) -> None:
        name = os.path.join(self.directory, f"rank-{trainer.global_rank}")
        torch.save({"seen": self.seen, "weights": dict(module.potential.state_dict())}, name + ".pt")
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files of a few real frames; valid has an odd number, and only one has a stress, so one process sees none."""
    files = write_parts(tmp_path_factory.mktemp("data"))
    frames = labelled("valid")[:3]
    for atoms in frames[1:]:
        del atoms.info["REF_stress"]
    ase.io.write(files["valid"], frames)
    return files


@pytest.fixture(scope="module")
def shared(files, tmp_path_factory) -> Path:
    """The run directory of a fit by two processes."""
    base = tmp_path_factory.mktemp("ddp")
    (base / "recorder.py").write_text(RECORDER)
    callback = [{"class_path": "recorder.Recorder", "init_args": {"directory": str(base)}}]
    more = ("--trainer.strategy", "ddp", "--trainer.devices", "2", "--trainer.max_epochs", str(EPOCHS))
    arguments = fit_arguments(
        files, base / "run", *more, "--trainer.callbacks", json.dumps(callback), "--allow", "recorder.Recorder"
    )
    paths = os.pathsep.join([str(base), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    both = process(*arguments, log=base / "log", PYTHONPATH=paths, MASTER_ADDR="127.0.0.1")
    try:
        status = both.wait(PATIENCE)
        assert status == 0, (base / "log").read_text()[-2000:]
    finally:
        os.killpg(both.pid, signal.SIGKILL)
    return base / "run"


@pytest.fixture(scope="module")
def records(shared) -> list[dict]:
    """What each of the two processes has seen, and its weights."""
    return [torch.load(shared.parent / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


def test_both_processes_end_with_the_same_weights(records, shared):
    one, two = (record["weights"] for record in records)
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)
    saved = torch.load(shared / models.LAST, weights_only=True)["state_dict"]
    assert all(torch.equal(saved[f"potential.{key}"], one[key]) for key in one)


def test_every_training_frame_is_seen_once_in_every_epoch(records):
    for epoch in range(EPOCHS):
        seen = [[i for e, frames in record["seen"] for i in frames if e == epoch] for record in records]
        assert Counter(seen[0] + seen[1]) == dict.fromkeys(range(len(labelled("train"))), 1)
        assert all(seen)


def test_the_order_of_frames_changes_from_epoch_to_epoch(records):
    first, second = ([frames for e, frames in records[0]["seen"] if e == epoch] for epoch in range(2))
    assert first != second


def test_errors_of_two_processes_are_those_of_one(shared, files, tmp_path):
    lines = (shared / "metrics.csv").read_text().splitlines()
    row = dict(zip(lines[0].split(","), lines[-1].split(","), strict=True))
    assert command("evaluate", shared / models.LAST, files["valid"], "--json", tmp_path / "out.json") == 0
    alone = json.loads((tmp_path / "out.json").read_text())["all"]
    for name in ("energy", "forces", "stress"):
        close(float(row[f"valid/{name}_mae"]), alone[f"{name}_mae"] / 1e3, "processes")


def test_a_run_of_two_processes_is_whole(shared):
    names = {path.name for path in shared.iterdir()}
    assert names >= {"best.ckpt", "last.ckpt", "metrics.csv", "config.yaml", "after.json", "summary.md"}
    assert not [name for name in names if name.endswith(".partial")]
    log = (shared.parent / "log").read_text()
    assert log.count("reference energies from") == 1
    assert log.count("run directory, and a model name like any other") == 1
    assert "Traceback" not in log
