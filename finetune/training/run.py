"""The run directory of a fit: checkpoints, provenance, history, errors before and after, plots, summary."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from rich.console import Console

from finetune import models, plots
from finetune.checksums import write_tensors
from finetune.data.frames import Frame, fitted_to
from finetune.display import cell, fenced
from finetune.evaluation import Evaluation, compare_table, evaluate
from finetune.files import write_text
from finetune.metrics import Errors
from finetune.potential import Potential
from finetune.provenance import FITTED

PARTS = {"valid": "validation frames (they chose the epoch)", "test": "test frames (held-out groups)"}

PACKAGES = ("torch", "lightning", "mace-torch", "chgnet", "e3nn", "ase", "pymatgen", "numpy", "vesin")


class WholeFiles(TorchCheckpointIO):
    """Checkpoints are written under a temporary name and renamed, and have checksums that are verified on reading."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        """Write one checkpoint, whole or not at all."""
        write_tensors(checkpoint, Path(path))

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Read one checkpoint after its checksums are verified; nothing in it is executed."""
        return models.read_checkpoint(Path(path))


class RunCheckpoint(ModelCheckpoint):
    """Lightning's checkpoint that keeps its best score when the run directory has been moved or copied."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state as if it had been written in this directory."""

        def here(path: str) -> str:
            return str(Path(str(self.dirpath)) / Path(path).name) if path else path

        paths = {name: here(state_dict[name]) for name in state_dict if name.endswith("_model_path")}
        best = {here(path): score for path, score in state_dict.get("best_k_models", {}).items()}
        super().load_state_dict({**state_dict, **paths, "best_k_models": best, "dirpath": self.dirpath})


def checkpoints(directory: Path, monitor: str) -> list[ModelCheckpoint]:
    """`best.ckpt`, lowest in `monitor`, and `last.ckpt`, both written at the end of each epoch."""
    common: dict[str, Any] = {
        "dirpath": directory,
        "enable_version_counter": False,
        "auto_insert_metric_name": False,
        "save_on_train_epoch_end": True,
    }
    return [
        RunCheckpoint(filename="best", monitor=monitor, mode="min", save_top_k=1, **common),
        RunCheckpoint(filename="last", every_n_epochs=1, **common),
    ]


class RunDirectory(Callback):
    """Writes what a fit leaves beside its checkpoints.

    `config.yaml`, `provenance.json` (seed, versions, git revision, data hash, licence), `frames.json` (hashes of the
    structures that it is fitted to), `metrics.csv` (a row for each epoch), `before.json` and `after.json` (errors on
    the validation and test frames), plots and `summary.md`.

    Args:
        directory: the run directory.
        config: the resolved configuration as YAML.
        seed: the seed of the run.
    """

    def __init__(self, directory: Path, config: str, seed: int | None) -> None:
        self.directory, self.config, self.seed = directory, config, seed
        self.rows: list[dict[str, float]] = []

    def state_dict(self) -> dict[str, Any]:
        """The history so far, so that a resumed run goes on with it."""
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the history of the run that is resumed."""
        self.rows = list(state_dict["rows"])

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Write config and provenance."""
        if not trainer.is_global_zero:
            return
        self._write("config.yaml", self.config)
        provenance = self._provenance(trainer, pl_module)
        file = self.directory / "provenance.json"
        if trainer.ckpt_path is not None and file.is_file():
            first = json.loads(file.read_text())
            provenance = {**first, "resumed": [*first.get("resumed", []), provenance]}
        self._write(file.name, json.dumps(provenance, indent=1))
        write_fitted(self.directory, trainer.datamodule.train_frames, trainer.datamodule.valid_frames)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate the potential as it came, with refitted reference energies: on one footing with what comes out."""
        if trainer.ckpt_path is not None or not trainer.is_global_zero:
            return
        results = self._evaluate(trainer, pl_module.potential, shift=not pl_module.refit_references)
        self._write("before.json", json.dumps({name: result.json() for name, result in results.items()}, indent=1))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Add the epoch's row to `metrics.csv`; the validation of the epoch has run by now."""
        if not trainer.is_global_zero:
            return
        row: dict[str, float] = {"epoch": trainer.current_epoch, "step": trainer.global_step}
        row["learning_rate"] = max(group["lr"] for group in trainer.optimizers[0].param_groups)
        measured = {name: float(value) for name, value in trainer.callback_metrics.items()}
        if (trainer.current_epoch + 1) % (trainer.check_val_every_n_epoch or 1):  # no validation in this epoch
            measured = {name: value for name, value in measured.items() if not name.startswith("valid/")}
        row |= {name: value for name, value in measured.items() if math.isfinite(value)}
        self.rows = [old for old in self.rows if old["epoch"] < row["epoch"]] + [row]
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        with io.StringIO(newline="") as text:
            writer = csv.DictWriter(text, names, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
            self._write("metrics.csv", text.getvalue())

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Evaluate the best weights, draw the plots, write and print the summary."""
        best = self.directory / models.BEST
        if not trainer.is_global_zero or not best.is_file() or trainer.interrupted:
            return
        potential = models.load(best).to(pl_module.device)
        after = self._evaluate(trainer, potential, shift=False)
        self._write("after.json", json.dumps({name: result.json() for name, result in after.items()}, indent=1))
        before = json.loads((self.directory / "before.json").read_text())
        for name, result in after.items():
            plots.parity(result, self.directory / f"parity-{name}.png")
        plots.curves(self.directory / "metrics.csv", self.directory / "curves.png")
        console = Console(record=True, width=100)
        if pl_module.refit_references:
            console.print(f"\nbefore: {self._start(pl_module)}")
        for name, result in after.items():
            title = PARTS[name] if pl_module.solve is None else PARTS[name].replace("the epoch", "ridge and epoch")
            console.print(f"\n[bold]{title}[/bold]")
            console.print(compare_table(Errors.from_json(before[name]), result))
        console.print(cell(f"\nrun directory, and a model name like any other: {self.directory}"))
        console.print("  best.ckpt last.ckpt   weights       config.yaml provenance.json   how it was made")
        console.print("  parity-*.png curves.png   plots     metrics.csv before.json after.json summary.md   figures")
        self._write("summary.md", fenced(console.export_text()))

    @staticmethod
    def _start(pl_module: Any) -> str:
        """What the errors before the fit are those of."""
        if pl_module.potential.pretrained:
            return "the model that it started from, with reference energies refitted to the training frames"
        return "reference energies alone, fitted to the training frames"

    def _evaluate(self, trainer: Any, potential: Potential, shift: bool) -> dict[str, Evaluation]:
        """Errors on the validation frames, and on the test frames where there are some."""
        data = trainer.datamodule
        parts = [part for part in PARTS if part == "valid" or data.files[part] is not None or data.split[2] > 0]
        return {
            part: evaluate(
                potential, data.frames(part), shift=shift, batch_edges=data.batch_edges, graphs=data.graphs(part)
            )
            for part in parts
        }

    def _provenance(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        data = trainer.datamodule
        return {
            "seed": self.seed,
            "data": {
                "sha256": data.data_hash(),
                "files": data.files,
                "train": len(data.train_frames),
                "valid": len(data.valid_frames),
            },
            "foundation_licence": pl_module.potential.licence,
            "versions": {"python": platform.python_version(), **versions()},
            "git": git_revision(),
            "command": sys.argv[1:],
        }

    def _write(self, name: str, text: str) -> None:
        """Write a text file whole or not at all."""
        write_text(self.directory / name, text)


def write_fitted(directory: Path, train: Sequence[Frame], valid: Sequence[Frame]) -> None:
    """Write the training data of the model of a directory, `frames.json`: elements and hashes of the structures."""
    write_text(directory / FITTED, json.dumps(fitted_to(train, valid).plain()) + "\n")


def versions() -> dict[str, str]:
    """Versions of the packages that decide the result."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def git_revision(source: Path = Path(__file__).parents[2]) -> str | None:
    """Revision of the source of this package; None where it is installed without its repository.

    The working directory is not asked: the configuration and the attributes of a repository name programs, which git
    runs. Monitors of files and hooks of the source are switched off as well.
    """
    if not (source / ".git").exists():
        return None
    off = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
    command = ["git", "--no-optional-locks", *off, "describe", "--always", "--dirty", "--abbrev=40"]
    inside = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            command, cwd=source, env=inside, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
