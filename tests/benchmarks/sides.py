"""The sides of a race, each in a process of its own: this package, chgnet's own Trainer, mace's own run_train.

Every side does what its own users do, from structures in memory to the end of the last epoch. It waits for its turn
before each training epoch and says how many seconds that took, so two sides never compute at the same time.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import logging
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import ase.io
import numpy as np

LEARNING_RATE = 1e-9  # the weights stay where they are, so both sides must report the same error: proof of the same work
CLIP, DECAY = 10.0, 0.99  # of gradients and of the averaged weights, as in configs/base.yaml


@dataclass(frozen=True)
class Race:
    """What both sides are given.

    Attributes:
        folder: holds `train.extxyz`, `valid.extxyz`, and for mace `start.model`; each side writes into a folder of it.
        foundation: model name that both sides start from.
        epochs: training epochs.
        batch: structures in a batch.
        threads: of torch.
        references: this package refits reference energies first, as its command line does.
    """

    folder: Path
    foundation: str
    epochs: int
    batch: int
    threads: int
    references: bool = False

    def batches(self, count: int, epoch: int) -> list[list[int]]:
        """Frame numbers of each batch of an epoch; the last frames are left out if they do not fill one."""
        order = np.random.default_rng([0, epoch]).permutation(count)
        return [order[k : k + self.batch].tolist() for k in range(0, count - self.batch + 1, self.batch)]


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
        """Tell the time of the epoch, s, and the error of the forces over the training frames, eV/Å."""
        self.connection.send((*seconds, forces_mae))


def run(side: str, connection: Connection, race: Race) -> None:
    """Entry of a side's process: `ours`, `chgnet` or `mace`."""
    import torch

    torch.set_num_threads(race.threads)
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    folder = race.folder / side
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        SIDES[side](Baton(connection), race)


def ours(baton: Baton, race: Race) -> None:
    """`lightning.Trainer.fit` as the command line sets it up, with clipped gradients and averaged weights.

    An epoch lasts from the end of the one before to its own end: loading, logging and all hooks count. The first one
    begins when `fit` is called, with frames that have been read, and holds the making of the graphs.
    """
    import lightning
    import torch
    from lightning.pytorch.callbacks import EMAWeightAveraging

    from finetune import models
    from finetune.cli.lightning import TRAINER, quiet
    from finetune.data.batching import Loader
    from finetune.data.module import FrameData
    from finetune.training.module import FineTune

    class SameBatches(FrameData):
        def train_dataloader(self) -> Loader:
            made = super().train_dataloader()
            return Loader(race.batches(len(self.train_frames), made.epoch), made.make, made.epoch)

    class Turns(lightning.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            baton.report(baton.stop(), float(trainer.callback_metrics["train/forces_mae"]))
            if trainer.current_epoch + 1 < race.epochs:
                baton.wait()

    quiet()
    torch.set_float32_matmul_precision("high")
    potential = models.load(race.foundation, trusted=True)
    data = SameBatches(train=str(race.folder / "train.extxyz"), valid=str(race.folder / "valid.extxyz"))
    data.frames("train"), data.frames("valid")
    average: Any = EMAWeightAveraging(decay=DECAY, use_buffers=False)
    trainer = lightning.Trainer(
        accelerator="cpu",
        max_epochs=race.epochs,
        limit_val_batches=0,
        gradient_clip_val=CLIP,
        callbacks=[average, Turns()],
        enable_progress_bar=False,
        enable_checkpointing=False,
        **TRAINER,
    )
    optimizer = partial(torch.optim.AdamW, lr=LEARNING_RATE, weight_decay=0.0)
    module = FineTune(potential, optimizer=optimizer, refit_references=race.references)
    baton.wait()
    trainer.fit(module, datamodule=data)


def chgnet(baton: Baton, race: Race) -> None:
    """`chgnet.trainer.Trainer.train` on `StructureData`; the clock runs while its `_train` does.

    pymatgen structures are made beforehand; `StructureData` makes its graphs when they are first asked for, so in the
    first epoch. No gradient is clipped and no weights are averaged: chgnet has neither.
    """
    import chgnet.data.dataset as upstream
    from ase import units
    from chgnet.model import CHGNet
    from chgnet.trainer import Trainer
    from pymatgen.io.ase import AseAtomsAdaptor
    from torch.utils.data import DataLoader

    frames = ase.io.read(race.folder / "train.extxyz", ":")
    dataset = upstream.StructureData(
        structures=[AseAtomsAdaptor.get_structure(_bare(atoms)) for atoms in frames],
        energies=[atoms.info["REF_energy"] / len(atoms) for atoms in frames],
        forces=[atoms.arrays["REF_forces"] for atoms in frames],
        stresses=[_matrix(atoms.info["REF_stress"]) / units.GPa * -10 for atoms in frames],  # eV/Å³ -> VASP's kbar
        shuffle=False,
    )

    class Batches:
        epoch = -1

        def __iter__(self) -> Iterator[list[int]]:
            self.epoch += 1
            return iter(race.batches(len(frames), self.epoch))

        def __len__(self) -> int:
            return len(race.batches(len(frames), 0))

    class Timed(Trainer):
        def _train(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            baton.wait()
            errors: dict[str, float] = super()._train(*args, **kwargs)
            baton.report(baton.stop(), errors["f"])
            if dataset.failed_idx:
                raise RuntimeError(f"chgnet replaced {len(dataset.failed_idx)} structures by others; take other frames")
            return errors

    model = CHGNet.load(model_name=race.foundation.partition(":")[2], use_device="cpu", verbose=False)
    trainer = Timed(
        model=model,
        targets="efs",
        optimizer="AdamW",
        weight_decay=0.0,
        criterion="Huber",
        learning_rate=LEARNING_RATE,
        epochs=race.epochs,
        use_device="cpu",
        print_freq=10**9,
    )
    first: Any = [[0]]
    trainer.train(
        DataLoader(dataset, batch_sampler=Batches(), collate_fn=upstream.collate_graphs),
        DataLoader(dataset, batch_sampler=first, collate_fn=upstream.collate_graphs),
        save_dir=os.fspath(race.folder / "chgnet"),
    )


def mace(baton: Baton, race: Race) -> None:
    """`mace.cli.run_train.run` with arguments as on its command line; the clock runs while its `train_one_epoch` does.

    Graphs are made beforehand, and the batches are its own random ones of the same size.
    """
    from mace.cli import run_train
    from mace.tools import build_default_arg_parser

    training: Any = importlib.import_module("mace.tools.train")
    original, evaluate = training.train_one_epoch, training.evaluate
    errors: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> None:
        baton.wait()
        original(*args, **kwargs)
        baton.report(baton.stop(), errors[0])

    def noted(*args: Any, **kwargs: Any) -> Any:
        result = evaluate(*args, **kwargs)
        errors.append(float(result[1]["mae_f"]))
        return result

    training.train_one_epoch, training.evaluate = timed, noted
    train = os.fspath(race.folder / "train.extxyz")
    options: dict[str, Any] = {
        **{"name": "race", "train_file": train, "valid_file": train, "eval_interval": 10**9},
        **{"foundation_model": race.foundation, "foundation_model_elements": True, "multiheads_finetuning": False},
        **{"E0s": "foundation", "scaling": "no_scaling", "loss": "huber", "optimizer": "adamw", "lr": LEARNING_RATE},
        **{"weight_decay": 0.0, "clip_grad": CLIP, "ema_decay": DECAY, "batch_size": race.batch, "valid_batch_size": 4},
        **{"energy_key": "REF_energy", "forces_key": "REF_forces", "stress_key": "REF_stress"},
        **{"max_num_epochs": race.epochs, "default_dtype": "float32", "device": "cpu", "plot": False, "seed": 0},
        **{"num_workers": 0, "pin_memory": False, "log_level": "ERROR"},
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    run_train.run(build_default_arg_parser().parse_args(["--ema", *arguments]))


SIDES = {"ours": ours, "chgnet": chgnet, "mace": mace}


def _matrix(voigt: np.ndarray) -> np.ndarray:
    """A stress as 3x3."""
    from ase.stress import voigt_6_to_full_3x3_stress

    return np.asarray(voigt_6_to_full_3x3_stress(np.asarray(voigt)))


def _bare(atoms: Any) -> Any:
    """The structure without its labels."""
    import ase

    return ase.Atoms(numbers=atoms.numbers, positions=atoms.positions, cell=atoms.cell, pbc=atoms.pbc)
