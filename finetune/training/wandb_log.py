"""What Weights & Biases is told beside the curves: config, data hash, plots, and the model as an artifact."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import WandbLogger

from finetune import models, permissions
from finetune.errors import InputError

HARMLESS = ("project", "entity", "mode", "disabled", "run_group", "silent", "quiet", "console")  # of wandb/settings
FILES = (models.BEST, "config.yaml", "provenance.json", "after.json", "summary.md")


class WandbRecord(Callback):
    """Completes the record of a fit in Weights & Biases; comes after `RunDirectory`, whose files it sends.

    Args:
        directory: the run directory.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Send the resolved config and the provenance, data hash included."""
        if not trainer.is_global_zero:
            return
        for logger in wandb_loggers(trainer):
            config = yaml.safe_load((self.directory / "config.yaml").read_text())
            provenance = json.loads((self.directory / "provenance.json").read_text())
            logger.experiment.config.update({**config, "provenance": provenance}, allow_val_change=True)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Send errors, plots and the model."""
        if not trainer.is_global_zero:
            return
        for logger in wandb_loggers(trainer):
            import wandb

            run = logger.experiment
            after = self.directory / "after.json"
            if after.is_file():
                for part, errors in json.loads(after.read_text()).items():
                    run.summary.update({f"{part}_after/{name}": value for name, value in errors["all"].items()})
            run.log({path.stem: wandb.Image(str(path)) for path in sorted(self.directory.glob("*.png"))})
            artifact = wandb.Artifact(
                f"model-{run.id}", type="model", metadata={"licence": pl_module.potential.licence}
            )
            for name in FILES:
                if (self.directory / name).is_file():
                    artifact.add_file(str(self.directory / name))
            run.log_artifact(artifact)


def check_workspace(directory: Path) -> None:
    """Check the settings of Weights & Biases that lie in a directory: they may come from somebody else.

    Raises:
        InputError: settings that could send the key or the data elsewhere.
    """
    known = {"https://api.wandb.ai", os.environ.get("WANDB_BASE_URL", "")}
    for path in (directory / "wandb" / "settings", directory / ".wandb" / "settings"):
        if not path.is_file():
            continue
        content = configparser.ConfigParser(interpolation=None)
        try:
            content.read_string(path.read_text())
        except (configparser.Error, UnicodeDecodeError) as error:
            raise InputError(
                f"{path}: got {type(error).__name__}, expected settings of W&B. Remove the file"
            ) from error
        given = {name: value for section in content.sections() for name, value in content[section].items()}
        for name, value in ({**content.defaults(), **given}).items():
            if name not in HARMLESS and not (name == "base_url" and value.rstrip("/") in known):
                raise InputError(
                    f"{path}: got {name} = {value}, which can send your key or data elsewhere. Remove the file, or set "
                    f"WANDB_{name.upper()} yourself"
                )


def check_logger(logger: WandbLogger) -> None:
    """Check that a logger has no `settings`, which name hosts among others, unless `--allow` names its class.

    Raises:
        InputError: it has.
    """
    if logger._wandb_init.get("settings") is not None:
        permissions.check("lightning.pytorch.loggers.WandbLogger")


@contextlib.contextmanager
def account() -> Iterator[None]:
    """Report what Weights & Biases refuses, a missing key above all, in one line.

    Raises:
        InputError: no key, a wrong one, or no connection.
    """
    import wandb

    check_workspace(Path.cwd())
    os.environ.setdefault("WANDB_DISABLE_GIT", "true")  # git can run programs that a repository names
    try:
        yield
    except (wandb.errors.Error, TimeoutError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__).rstrip(".")
        raise InputError(
            f"Weights & Biases: {reason}. Run `wandb login` once, set WANDB_API_KEY, or keep the record on this "
            "machine with WANDB_MODE=offline"
        ) from error


def connect(loggers: Iterable[Any]) -> None:
    """Begin the runs of W&B loggers, before anything is computed for them.

    Raises:
        InputError: no key, a wrong one, or no connection.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            check_logger(logger)
            with account():
                _ = logger.experiment


def wandb_loggers(trainer: Any) -> list[WandbLogger]:
    """The W&B loggers of a trainer."""
    return [logger for logger in trainer.loggers if isinstance(logger, WandbLogger)]
