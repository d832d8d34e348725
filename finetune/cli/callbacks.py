"""What the command line adds to Lightning: predictions as a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import lightning
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from ase.stress import full_3x3_to_voigt_6_stress
from lightning.pytorch.callbacks import BasePredictionWriter

from finetune.files import write_frames
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
        write_frames(self.path, [frames[index] for index in sorted(frames)])
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
