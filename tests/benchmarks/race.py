"""What both sides of a race are given, and how they take turns."""

from __future__ import annotations

import importlib
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import yaml

CONFIGS = Path(__file__).parents[2] / "configs"
LEARNING_RATE = 1e-9  # weights stay where they are, so both sides must report the same error: proof of the same work


@dataclass(frozen=True)
class Race:
    """What both sides are given.

    Attributes:
        folder: holds `train.extxyz`, `valid.extxyz`, and for mace `start.model`; each side writes into a folder of it.
        backbone: `chgnet` or `mace`, the name of its file in configs.
        foundation: model name that both sides start from.
        epochs: training epochs.
        batch: structures in a batch.
        threads: of torch.
        references: this package refits reference energies first, as its command line does.
    """

    folder: Path
    backbone: str
    foundation: str
    epochs: int
    batch: int
    threads: int
    references: bool = False

    def batches(self, count: int, epoch: int) -> list[list[int]]:
        """Frame numbers of each batch of an epoch; the last frames are left out if they do not fill one."""
        order = np.random.default_rng([0, epoch]).permutation(count)
        return [order[k : k + self.batch].tolist() for k in range(0, count - self.batch + 1, self.batch)]

    def config(self) -> dict[str, Any]:
        """What a fit of this package is told by configs/base.yaml and the backbone's file."""
        base, own = (yaml.safe_load((CONFIGS / f"{name}.yaml").read_text()) for name in ("base", self.backbone))
        return {"trainer": {**base["trainer"], **own.get("trainer", {})}, "model": {**base["model"], **own["model"]}}

    def averaging(self) -> tuple[Any, dict[str, Any]]:
        """The callback that averages the weights, and its arguments."""
        found = next(c for c in self.config()["trainer"]["callbacks"] if "verag" in c["class_path"])
        module, _, name = found["class_path"].rpartition(".")
        return getattr(importlib.import_module(module), name), found["init_args"]


class Baton:
    """One side's end of the pipe to the referee."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def wait(self) -> None:
        """Say that everything before this epoch is done, wait for the turn, and start the clock."""
        self.connection.send("ready")
        self.connection.recv()
        self.start = time.perf_counter(), time.process_time()

    def stop(self) -> tuple[float, float]:
        """Seconds since the turn began: by the clock, and of the processor for this process."""
        return time.perf_counter() - self.start[0], time.process_time() - self.start[1]

    def report(self, seconds: tuple[float, float], forces_mae: float) -> None:
        """Tell the time of the epoch, s, and the error of the forces over the training frames, eV/Å; wait to go on."""
        self.connection.send((*seconds, forces_mae))
        self.connection.recv()
