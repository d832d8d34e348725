"""`finetune` as a user types it, in this process or in one of its own, on a few real frames."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from finetune.cli import main

from .structures import ROOT

CONFIGS = ("-c", str(ROOT / "configs/base.yaml"), "-c", str(ROOT / "tests/tiny.yaml"))
# Lightning and jsonargparse warn of each other's old age
THEIR_WARNINGS = pytest.mark.filterwarnings("default")
PARTS = {"train": 8, "valid": 4, "test": 4}


def command(*arguments: str | Path) -> int:
    """Exit status of `finetune ARGUMENTS`, run in this process; only a bug raises."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr  # not that of the test which imported Lightning
    try:
        return main([str(argument) for argument in arguments])
    except SystemExit as leave:
        return int(leave.code or 0)


def process(*arguments: str | Path, log: Path, cwd: Path | None = None, **environment: str) -> subprocess.Popen[bytes]:
    """`finetune ARGUMENTS` in a process of one thread, the first of its group; what it says goes to `log`."""
    script = Path(sys.executable).with_name("finetune")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in background jobs of shells; children would inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        )


def labelled(part: str) -> list[Atoms]:
    """The smallest frames of a part of data/starting, with their DFT labels."""
    frames = sorted(ase.io.read(ROOT / f"data/starting/{part}.extxyz", ":"), key=len)
    return frames[: PARTS[part]]


def write_parts(directory: Path) -> Mapping[str, Path]:
    """A file of real frames for each of train, valid and test."""
    files = {part: directory / f"{part}.extxyz" for part in PARTS}
    for part, path in files.items():
        ase.io.write(path, labelled(part), format="extxyz")
    return files


def fit_arguments(files: Mapping[str, Path], directory: Path, *more: str | Path) -> list[str | Path]:
    """Arguments of a short fit of a tiny CHGNet into a run directory; `more` goes last and wins."""
    data = ["--data.train", files["train"], "--data.valid", files["valid"], "--data.test", files["test"]]
    return ["fit", *CONFIGS, *data, "--trainer.default_root_dir", directory, *more]
