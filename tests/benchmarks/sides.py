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
import warnings
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import ase
import ase.io
from ase.stress import voigt_6_to_full_3x3_stress
from race import LEARNING_RATE, Baton, Race


def run(side: str, connection: Connection, race: Race) -> None:
    """Entry of a side's process: `ours`, `chgnet` or `mace`."""
    import torch

    torch.set_num_threads(race.threads)
    warnings.simplefilter("ignore")
    folder = race.folder / side
    folder.mkdir(exist_ok=True)
    os.chdir(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        SIDES[side](Baton(connection), race)


def ours(baton: Baton, race: Race) -> None:
    """`lightning.Trainer.fit` as the command line sets it up: clipping, averaged weights and optimiser of the configs.

    An epoch lasts from the end of the one before to its own end: loading, logging and all hooks count. The first one
    begins when `fit` is called, with frames that have been read, and holds the making of the graphs.
    """
    import lightning
    import torch

    from finetune import models
    from finetune.cli.lightning import TRAINER, quiet
    from finetune.training.module import FineTune

    class Turns(lightning.Callback):
        def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
            baton.report(baton.stop(), float(trainer.callback_metrics["train/forces_mae"]))
            if trainer.current_epoch + 1 < race.epochs:
                baton.wait()

    quiet()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    torch.set_float32_matmul_precision("high")
    config, data = race.config(), _same_batches(race)
    average, arguments = race.averaging()
    settings: dict[str, Any] = {**TRAINER, "gradient_clip_val": config["trainer"]["gradient_clip_val"]}
    settings |= {"accelerator": "cpu", "max_epochs": race.epochs, "limit_val_batches": 0}
    settings |= {"enable_progress_bar": False, "enable_checkpointing": False}
    trainer = lightning.Trainer(callbacks=[average(**arguments), Turns()], **settings)
    optimizer = partial(torch.optim.AdamW, **{**config["model"]["optimizer"]["init_args"], "lr": LEARNING_RATE})
    potential = models.load(race.foundation, trusted=True)
    module = FineTune(potential, optimizer=optimizer, refit_references=race.references)
    baton.wait()
    trainer.fit(module, datamodule=data)


def _same_batches(race: Race) -> Any:
    """This package's data module, its frames read, with the batches of the race."""
    from finetune.data.batching import Loader
    from finetune.data.module import FrameData

    class SameBatches(FrameData):
        def train_dataloader(self) -> Loader:
            made = super().train_dataloader()
            return Loader(race.batches(len(self.train_frames), made.epoch), made.make, made.epoch)

    data = SameBatches(train=str(race.folder / "train.extxyz"), valid=str(race.folder / "valid.extxyz"))
    data.frames("train"), data.frames("valid")
    return data


def chgnet(baton: Baton, race: Race) -> None:
    """`chgnet.trainer.Trainer.train` on `StructureData`; the clock runs while its `_train` does.

    pymatgen structures are made beforehand; `StructureData` makes its graphs when they are first asked for, so in the
    first epoch. No gradient is clipped and no weights are averaged: chgnet has neither.
    """
    from chgnet.data.dataset import collate_graphs
    from chgnet.model import CHGNet
    from chgnet.trainer import Trainer
    from torch.utils.data import DataLoader

    dataset = _structure_data(race)

    class Batches:
        epoch = -1

        def __iter__(self) -> Iterator[list[int]]:
            self.epoch += 1
            return iter(race.batches(len(dataset), self.epoch))

        def __len__(self) -> int:
            return len(race.batches(len(dataset), 0))

    class Timed(Trainer):
        def _train(self, *args: Any, **kwargs: Any) -> dict[str, float]:
            baton.wait()
            errors: dict[str, float] = super()._train(*args, **kwargs)
            baton.report(baton.stop(), errors["f"])
            if dataset.failed_idx:
                raise RuntimeError(f"chgnet replaced {len(dataset.failed_idx)} structures by others; take other frames")
            return errors

    model = CHGNet.load(model_name=race.foundation.partition(":")[2], use_device="cpu", verbose=False)
    settings: dict[str, Any] = {"targets": "efs", "criterion": "Huber", "epochs": race.epochs, "use_device": "cpu"}
    settings |= {"optimizer": "AdamW", "weight_decay": 0.0, "learning_rate": LEARNING_RATE, "print_freq": 10**9}
    one: Any = [[0]]
    Timed(model, **settings).train(
        DataLoader(dataset, batch_sampler=Batches(), collate_fn=collate_graphs),
        DataLoader(dataset, batch_sampler=one, collate_fn=collate_graphs),
        save_dir=os.fspath(race.folder / "chgnet"),
    )


def _structure_data(race: Race) -> Any:
    """Chgnet's data set of the training frames: eV/atom, eV/Å, and the stress as VASP writes it, -kbar."""
    from ase import units
    from chgnet.data.dataset import StructureData
    from pymatgen.io.ase import AseAtomsAdaptor

    frames = ase.io.read(race.folder / "train.extxyz", ":")
    bare = [ase.Atoms(x.numbers, x.positions, cell=x.cell, pbc=x.pbc) for x in frames]
    labels: dict[str, Any] = {
        "energies": [x.info["REF_energy"] / len(x) for x in frames],
        "forces": [x.arrays["REF_forces"] for x in frames],
        "stresses": [voigt_6_to_full_3x3_stress(x.info["REF_stress"]) / units.GPa * -10 for x in frames],
    }
    return StructureData([AseAtomsAdaptor.get_structure(x) for x in bare], shuffle=False, **labels)


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
    run_train.run(build_default_arg_parser().parse_args(_mace_arguments(race)))


def _mace_arguments(race: Race) -> list[str]:
    """Arguments of `mace_run_train`: it validates before the first epoch and after it, when the clock stands."""
    values = {"clip": race.config()["trainer"]["gradient_clip_val"], "decay": race.averaging()[1]["decay"]}
    values |= {"train": race.folder / "train.extxyz", "start": race.foundation, "lr": LEARNING_RATE}
    values |= {"epochs": race.epochs, "batch": race.batch}
    text = """
        --name race --seed 0 --device cpu --default_dtype float32 --num_workers 0 --pin_memory False --plot False
        --train_file {train} --valid_file {train} --eval_interval 1000000
        --energy_key REF_energy --forces_key REF_forces --stress_key REF_stress
        --foundation_model {start} --foundation_model_elements True --multiheads_finetuning False
        --E0s foundation --scaling no_scaling --loss huber --optimizer adamw --weight_decay 0 --lr {lr}
        --ema --ema_decay {decay} --clip_grad {clip} --max_num_epochs {epochs}
        --batch_size {batch} --valid_batch_size {batch} --log_level ERROR
    """
    return [word.format(**values) for word in text.split()]


SIDES = {"ours": ours, "chgnet": chgnet, "mace": mace}
