"""`finetune fit | validate | test | predict`: LightningCLI with this project's defaults."""

from __future__ import annotations

import contextlib
import datetime
import difflib
import logging
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from lightning import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from finetune import display, models
from finetune.cli import allowing, helping, inputs, runs
from finetune.cli.callbacks import PredictionWriter
from finetune.data.module import FrameData
from finetune.errors import InputError, message_inside
from finetune.files import sweep
from finetune.locks import locked
from finetune.progress import terminal
from finetune.training.lines import EpochLines
from finetune.training.module import FineTune
from finetune.training.run import RunDirectory, WholeFiles, checkpoints
from finetune.training.wandb_log import WandbRecord, connect

TRAINER = {
    "inference_mode": False,  # forces are gradients
    "logger": False,  # metrics.csv is always written; W&B and others by --trainer.logger
    "num_sanity_val_steps": 0,
    "enable_model_summary": False,
    "use_distributed_sampler": False,  # the data module divides batches among processes
    "reload_dataloaders_every_n_epochs": 1,  # the order of batches is a function of seed and epoch
    "log_every_n_steps": 1,
    "devices": 1,
}
METHODS = ("fit", "validate", "test", "predict")


USAGE = {
    "fit": "Fine-tune a potential on labelled structures. Errors before and after, checkpoints, plots and the "
    "resolved config are left in the run directory (--trainer.default_root_dir).",
    "validate": "Loss and errors of RUN on its validation frames, or on FILES.",
    "test": "Loss and errors of RUN on its test frames, or on FILES.",
    "predict": "Energies, forces and stress of the structures in FILES, written to predictions.extxyz in the run "
    "directory (--trainer.default_root_dir).",
}


class Parser(LightningArgumentParser):
    """An argument parser whose errors are one line, with the nearest known option."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what is wrong and leave with status 2."""
        message = allowing.explained(message)
        known = [option for parser in self.family() for option in parser._option_string_actions]
        words = [word.strip("\"'.,:") for word in message.split()]
        near = [difflib.get_close_matches(f"--{word.lstrip('-')}", known, n=1, cutoff=0.8) for word in words]
        hints = dict.fromkeys(hit[0] for hit, word in zip(near, words, strict=True) if hit and hit[0] != word)
        hint = f" (did you mean {', '.join(hints)}?)" if hints and any(word in message for word in UNKNOWN) else ""
        print(
            display.message(f"error: {message}{hint}") + "\nfinetune COMMAND --help lists the options", file=sys.stderr
        )
        sys.exit(2)

    def family(self) -> list[Any]:
        """This parser and those of its subcommands."""
        return [self, *(self._subcommands_action.choices.values() if self._subcommands_action else [])]


class CLI(LightningCLI):
    """LightningCLI that gives every fit its own run directory."""

    short_help = True

    def __init__(self, *arguments: Any, held: contextlib.ExitStack, **others: Any) -> None:
        self.held = held  # gets the lock of the run directory, until the command ends
        super().__init__(*arguments, **others)

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Subcommands get the formatter of this one."""
        parser = super().init_parser(**kwargs)
        if self.short_help:
            parser.formatter_class = helping.Short
        return parser

    def add_arguments_to_parser(self, parser: Any) -> None:
        """Help in the order of what a user changes: model, data, then Lightning's trainer; and a usage of one line."""
        first = [group for group in parser._action_groups if "training via flags" not in (group.title or "")]
        parser._action_groups[:] = first + [group for group in parser._action_groups if group not in first]

    def _prepare_subcommand_parser(self, klass: Any, subcommand: str, **kwargs: Any) -> Any:
        """The parser of one subcommand, with its own words."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.description = USAGE[subcommand]
        parser.usage = helping.usage(subcommand)
        return parser

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Checkpoints are read without unpickling anything."""
        return {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}

    def _parse_ckpt_path(self) -> None:
        """Checkpoints hold no hyperparameters that would change the config."""

    def before_instantiate_classes(self) -> None:
        """Choose the run directory, refuse to overwrite one, and check the checkpoint before anything else is done."""
        config = self.config[self.subcommand]
        if config.trainer.default_root_dir is None:
            stamp = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
            config.trainer.default_root_dir = f"runs/{self.subcommand}-{stamp}"
        self.directory = Path(config.trainer.default_root_dir)
        last = self.directory / models.LAST
        if self.subcommand != "fit":
            if config.ckpt_path is not None:  # a checkpoint is a model: take it as the potential
                named = {"last": last, "best": self.directory / models.BEST}
                config.model.potential = str(named.get(config.ckpt_path, config.ckpt_path))
                config.ckpt_path = None
            return
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # processes of DDP share the lock of the first one
            self.held.enter_context(locked(self.directory, "choose another --trainer.default_root_dir"))
            sweep(self.directory, below=False)
        if config.trainer.max_epochs == 0:
            raise InputError("--trainer.max_epochs 0 trains nothing; finetune evaluate judges a model as it is")
        if config.ckpt_path == "last":
            if not last.is_file():
                raise InputError(
                    f"{self.directory} holds no {models.LAST} to go on with; leave --ckpt_path out to start"
                )
            config.ckpt_path = str(last)
        elif config.ckpt_path is None and last.is_file():
            raise InputError(
                f"{self.directory} holds a fit already; --ckpt_path last goes on with it, "
                "another --trainer.default_root_dir starts a new one"
            )
        if config.ckpt_path is not None:
            given = Path(config.ckpt_path)
            if "pytorch-lightning_version" not in models.read_checkpoint(given):
                raise InputError(f"{given} is no state of a fit; start from it with --model.potential {given}")
            if given.resolve().parent != self.directory.resolve():
                raise InputError(
                    f"{given} is of another run than {self.directory}; go on in its own directory "
                    f"(--trainer.default_root_dir {given.parent}), or start from it with --model.potential {given}"
                )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with checkpoints and run directory; nothing here can be forgotten in a config."""
        config = self.config[self.subcommand]
        given = self._get(self.config_init, "trainer")
        extra: list[Any] = []
        if self.subcommand == "fit" and not given.get("fast_dev_run"):
            text = self._parser(self.subcommand).dump(config, skip_none=False)
            record = [RunDirectory(self.directory, text, config.seed_everything), WandbRecord(self.directory)]
            extra = [*record, *checkpoints(self.directory, "valid/loss")]
        bar = terminal() and given.get("enable_progress_bar") is not False
        if self.subcommand == "fit" and not bar:
            extra = [EpochLines(), *extra]
        if self.subcommand == "predict":
            extra = [PredictionWriter(self.directory / "predictions.extxyz")]
        callbacks = [*(given.get("callbacks") or []), *extra]
        plugins = [*(given.get("plugins") or []), WholeFiles()]
        shown = {} if bar else {"enable_progress_bar": False}
        trainer = super().instantiate_trainer(callbacks=callbacks, plugins=plugins, **kwargs, **shown)
        connect(trainer.loggers)
        return trainer


class Talkative(CLI):
    """The same, with help on all that Lightning takes."""

    short_help = False


def run(arguments: list[str]) -> None:
    """Run one of Lightning's methods with arguments as on the command line."""
    quiet()
    torch.set_float32_matmul_precision("high")
    arguments = inputs.own_data(arguments, "--data.") if arguments[0] == "fit" else runs.of_run(arguments)
    kind = Talkative if ALL in arguments else CLI
    arguments = ["--help" if argument == ALL else argument for argument in arguments]
    check_files(arguments)
    before, sys.argv = sys.argv, [sys.argv[0], *arguments]  # processes of DDP start by it again
    try:
        with contextlib.ExitStack() as held:
            command = kind(
                FineTune,
                FrameData,
                held=held,
                trainer_defaults=TRAINER,
                save_config_callback=None,
                seed_everything_default=0,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,
                parser_class=Parser,
                parser_kwargs={method: {"default_config_files": []} for method in METHODS},
            )
            if command.trainer.interrupted:
                raise KeyboardInterrupt
    except MisconfigurationException as error:
        raise InputError(str(error).strip()) from error
    except ValueError as error:  # jsonargparse wraps what a constructor says
        raise InputError(said_inside(error)) from error
    except (SystemExit, RuntimeError) as stop:  # Lightning ends so when it is interrupted (RuntimeError between epochs)
        if interrupted(stop):
            raise KeyboardInterrupt from None
        raise
    finally:
        sys.argv = before


def interrupted(error: BaseException | None) -> bool:
    """The error came up while an interrupt by the user was dealt with."""
    while error is not None:
        if isinstance(error, KeyboardInterrupt):
            return True
        error = error.__context__
    return False


def said_inside(error: BaseException) -> str:
    """What this package said first, however often it was wrapped.

    Raises:
        BaseException: the error itself, where this package said nothing.
    """
    if (found := message_inside(error)) is not None:
        return found
    reasons = [line.strip().removeprefix("- ") for line in str(error).splitlines() if line.strip().startswith("- ")]
    if "Does not validate" in str(error) and reasons:
        return reasons[-1]
    raise error


def check_files(arguments: list[str]) -> None:
    """Name the config file that is not YAML."""
    for name in inputs.configs(arguments):
        if Path(name).is_file():
            try:
                yaml.safe_load(Path(name).read_text())
            except (yaml.YAMLError, UnicodeDecodeError) as error:
                raise InputError(f"{name} is not YAML: {' '.join(str(error).split())}") from error


def quiet() -> None:
    """Keep what a user cannot act on off the screen."""
    for text in (
        ".*does not have many workers.*",
        ".*smaller than the logging interval.*",
        ".*LeafSpec.*",
        ".*srun.*",
        ".*exists and is not empty.*",
        ".*could not find the monitored key.*",
        ".*training_step. returned .None.*",
        ".*infer the batch indices.*",
    ):
        warnings.filterwarnings("ignore", text)
    warnings.filterwarnings("ignore", category=UserWarning, module="(e3nn|mace|chgnet|pymatgen).*")
    for name in ("lightning.pytorch.utilities.rank_zero", "lightning.pytorch.accelerators.cuda"):
        logging.getLogger(name).addFilter(lambda record: not any(word in record.getMessage() for word in TIPS))


ALL = "--help-all"
UNKNOWN = ("unrecognized", "not expected", "does not accept")
TIPS = ("litlogger", "litmodels", "GPU available", "TPU available", "HPU available", "Tip:")
