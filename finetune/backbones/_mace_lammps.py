"""MACE models for LAMMPS, by mace's own wrappers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from finetune.backbones._mace_models import default_dtype
from finetune.files import whole


def with_references(model: Any, references: Mapping[int, float]) -> Any:
    """A copy of a model in double precision with energies (eV by atomic number) added to those of its atoms."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model = copy.deepcopy(model).double().cpu().eval()
    more = [references.get(int(z), 0.0) for z in model.atomic_numbers]
    model.atomic_energies_fn.atomic_energies += torch.tensor(more, dtype=torch.float64)
    return model


def write_torchscript(model: Any, path: Path) -> None:
    """What `pair_style mace` reads."""
    from e3nn.util import jit
    from mace.calculators import LAMMPS_MACE

    with default_dtype(torch.float64), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about TorchScript's age
        compiled = jit.compile(LAMMPS_MACE(model))
        with whole(path) as partial:
            compiled.save(str(partial))


def write_mliap(model: Any, path: Path) -> None:
    """What `pair_style mliap unified` reads: a pickle of mace's wrapper, kernels of cuEquivariance where installed."""
    from mace.calculators.lammps_mliap_mace import LAMMPS_MLIAP_MACE

    with default_dtype(torch.float64), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.lammps_mliap = True
        wrapped = LAMMPS_MLIAP_MACE(model)
        with whole(path) as partial:
            torch.save(wrapped, partial)
