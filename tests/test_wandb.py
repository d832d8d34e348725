"""Weights & Biases, offline: config, data hash, curves, plots and the model are in the record."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb
from wandb.proto import wandb_internal_pb2

from .commands import THEIR_WARNINGS, command, fit_arguments, process, write_parts
from .structures import ROOT

pytestmark = THEIR_WARNINGS

PATIENCE_S = 60


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run directory `run` and the offline record `wandb` of one fit."""
    assert os.environ["WANDB_MODE"] == "offline"
    base = tmp_path_factory.mktemp("wandb")
    more = ("-c", ROOT / "configs/wandb.yaml", "--trainer.logger.init_args.save_dir", base)
    assert command(*fit_arguments(write_parts(base), base / "run", *more)) == 0
    wandb.finish()
    return base


@pytest.fixture(scope="module")
def records(recorded) -> list[Any]:
    """All entries of the offline record, once its writer, a process of its own, has written the last one."""
    [path] = recorded.glob("wandb/offline-run-*/*.wandb")
    deadline = time.monotonic() + PATIENCE_S
    while True:
        entries = list(parsed(path))
        if any(entry.HasField("exit") for entry in entries):
            return entries
        assert time.monotonic() < deadline, f"{len(entries)} entries in {path} and no last one"
        time.sleep(0.1)


def parsed(path: Path) -> Iterator[Any]:
    """The entries that stand in a record so far."""
    for data in chunks(path.read_bytes()):
        entry = wandb_internal_pb2.Record()
        entry.ParseFromString(data)
        yield entry


def chunks(log: bytes) -> Iterator[bytes]:
    """Entries of a LevelDB log: blocks of 32 kB, each piece with checksum (4 bytes), length (2) and kind (1)."""
    position, entry = 7, b""  # after the header of the file
    while position + 7 <= len(log):
        if 32768 - position % 32768 < 7:
            position += 32768 - position % 32768
            continue
        length, kind = struct.unpack_from("<HB", log, position + 4)
        if position + 7 + length > len(log):
            return  # still being written
        entry += log[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield entry
            entry = b""


def items(updates: Any) -> dict[str, Any]:
    """Keys (nested ones joined by a dot) and values of an update of config, history or summary."""
    return {".".join([*item.nested_key] or [item.key]): json.loads(item.value_json) for item in updates}


def test_the_resolved_config_and_the_data_hash_are_recorded(records, recorded):
    config: dict[str, Any] = {}
    for entry in records:
        config |= items(entry.run.config.update) | items(entry.config.update)
    provenance = json.loads((recorded / "run/provenance.json").read_text())
    assert config["provenance"] == provenance
    assert len(config["provenance"]["data"]["sha256"]) == 64
    assert config["trainer"]["max_epochs"] == 3
    assert config["model"]["potential"]["class_path"] == "finetune.backbones.chgnet.CHGNet"


def test_learning_curves_are_recorded_for_every_epoch(records, recorded):
    steps = [items(entry.history.item) for entry in records if entry.HasField("history")]
    table = (recorded / "run/metrics.csv").read_text().splitlines()
    column = table[0].split(",").index("valid/forces_mae")
    expected = [float(line.split(",")[column]) for line in table[1:]]
    assert [step["valid/forces_mae"] for step in steps if "valid/forces_mae" in step] == pytest.approx(expected)
    for name in ("train/loss", "train/energy_mae", "valid/loss", "valid/stress_mae"):
        assert sum(name in step for step in steps) == 3, name


def test_plots_are_recorded_as_images(records, recorded):
    steps = [items(entry.history.item) for entry in records if entry.HasField("history")]
    for name in ("parity-valid", "parity-test", "curves"):
        [path] = recorded.glob(f"wandb/offline-run-*/files/media/images/{name}_*.png")
        assert path.read_bytes() == (recorded / f"run/{name}.png").read_bytes()
        assert any(key.startswith(name) for step in steps for key in step), name


def test_errors_of_the_best_model_are_in_the_summary(records, recorded):
    summary: dict[str, Any] = {}
    for entry in records:
        summary |= items(entry.summary.update)
    after = json.loads((recorded / "run/after.json").read_text())
    for part in ("valid", "test"):
        assert summary[f"{part}_after/forces_mae"] == after[part]["all"]["forces_mae"]


def test_the_model_is_recorded_as_an_artifact(records, recorded):
    [artifact] = [entry.artifact for entry in records if entry.HasField("artifact")]
    assert artifact.type == "model"
    assert json.loads(artifact.metadata)["licence"]
    sizes = {content.path: content.size for content in artifact.manifest.contents}
    assert {"best.ckpt", "config.yaml", "provenance.json", "after.json", "summary.md"} <= set(sizes)
    assert sizes["best.ckpt"] == (recorded / "run/best.ckpt").stat().st_size


@pytest.mark.parametrize("command_line", ["fit", "compare"])
def test_without_a_key_a_command_ends_in_one_line_before_it_computes(tmp_path, command_line):
    files = write_parts(tmp_path)
    if command_line == "fit":
        arguments = fit_arguments(files, tmp_path / "run", "-c", ROOT / "configs/wandb.yaml")
    else:
        (tmp_path / "compare.yaml").write_text(
            "columns: {chgnet: chgnet}\nobservables:\n"
            f"  - {{class_path: finetune.comparison.Errors, init_args: {{files: ['{files['valid']}']}}}}\n"
        )
        config = ("-c", tmp_path / "compare.yaml", "--wandb_project", "p")
        arguments = ["compare", *config, "--output", tmp_path / "run"]
    environment = {"WANDB_MODE": "online", "WANDB_API_KEY": "", "HOME": str(tmp_path), "NETRC": str(tmp_path / "netrc")}
    started = process(*arguments, log=tmp_path / "log", cwd=tmp_path, **environment)
    assert started.wait(PATIENCE_S * 4) == 1
    said = (tmp_path / "log").read_text()
    assert "Traceback" not in said
    [error] = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "wandb login" in error
    assert "WANDB_MODE=offline" in error
    assert not list((tmp_path / "run").glob("*.ckpt"))
    assert not (tmp_path / "run" / "cells").exists()
