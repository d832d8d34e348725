"""What the command line adds to Lightning: predictions as a file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import ase.io
import lightning
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from lightning.pytorch.callbacks import BasePredictionWriter

from finetune.errors import InputError
from finetune.properties import Properties


class PredictionWriter(BasePredictionWriter):
    """Writes predicted energy, forces and stress of all frames to one extended XYZ file, in the order of the input.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        interval: Literal["epoch"] = "epoch"
        super().__init__(write_interval=interval)
        self.path = path

    def write_on_epoch_end(
        self,
        trainer: Any,
        pl_module: lightning.LightningModule,
        predictions: Sequence[Any],
        batch_indices: Sequence[Any],
    ) -> None:
        """Write the file, whole or not at all."""
        if trainer.world_size > 1:
            gathered: list[Any] = [None] * trainer.world_size
            torch.distributed.all_gather_object(gathered, list(predictions))
            predictions = [part for parts in gathered for part in parts]
        if not trainer.is_global_zero:
            return
        frames: dict[int, Any] = {}
        known = trainer.datamodule.predict_frames
        for indices, n_atoms, predicted in predictions:
            for index, results in zip(indices.tolist(), divide(predicted, n_atoms.tolist()), strict=True):
                atoms = known[index].atoms.copy()
                atoms.calc = SinglePointCalculator(atoms, **results)
                frames[index] = atoms
        partial = self.path.with_name(self.path.name + ".partial")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            ase.io.write(partial, [frames[index] for index in sorted(frames)], format="extxyz")
            partial.replace(self.path)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            raise InputError(f"cannot write {self.path} ({error}); free some space or choose another place") from error
        print(f"{len(frames)} predictions in {self.path}: energy (eV), forces (eV/Å), stress (eV/Å³)")


def divide(predicted: Properties, n_atoms: Sequence[int]) -> list[dict[str, Any]]:
    """ASE results of each structure in a batch."""
    results = []
    for k, forces in enumerate(predicted.forces.split(list(n_atoms))):
        one: dict[str, Any] = {"energy": float(predicted.energy[k]), "forces": forces.numpy()}
        if predicted.stress[k].isfinite().all():
            one["stress"] = full_3x3_to_voigt_6_stress(predicted.stress[k].numpy())
        results.append(one)
    return results
