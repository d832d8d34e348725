"""Help for people: of `fit` and its like only what a user changes, in this project's words."""

from __future__ import annotations

import argparse

from jsonargparse import DefaultHelpFormatter

TRAINER = {
    "default_root_dir": "run directory: config, checkpoints, errors before and after, curves and plots; "
    "default: runs/ and the time",
    "max_epochs": "epochs to train for",
    "max_time": "stop after DD:HH:MM:SS; the fit can be gone on with",
    "accelerator": "cpu, gpu, mps or auto",
    "devices": "how many of them; several train in parallel (docs/how-to/multi-gpu.md)",
    "num_nodes": "nodes of a cluster",
    "strategy": "how several devices share the work: ddp, fsdp and others of Lightning's",
    "gradient_clip_val": "largest norm of the gradient",
    "check_val_every_n_epoch": "epochs between two looks at the validation frames",
    "logger": "lightning.pytorch.loggers.WandbLogger and others; metrics.csv is written always",
    "callbacks": "averaged weights, early stopping and others of Lightning's by `class_path`; null for none",
    "enable_progress_bar": "show one",
}
OTHERS = {
    "ckpt_path": "for fit, `last` goes on with what the run directory holds; else `best`, `last` or a checkpoint",
    "seed_everything": "seed of all that is random",
    "config": "YAML file of options; later files and options win",
    "print_config": "print the configuration that these options make, and leave",
}
FITS_ONLY = ("max_epochs", "max_time", "gradient_clip_val", "check_val_every_n_epoch", "callbacks", "split", "fraction")
SECTIONS = {"Customize every aspect of training via flags": "Lightning's trainer", "Runs the full": "which weights"}
USAGE = """finetune {command} {words} [--OPTION VALUE ...]

  {example}

  The options that matter most; --help-all shows all that Lightning's trainer takes, with types and classes."""
EXAMPLES = {
    "fit": "finetune fit -c configs/base.yaml -c configs/chgnet.yaml --data.train mine.extxyz "
    "--trainer.default_root_dir runs/mine",
    "validate": "finetune validate runs/mine others.extxyz",
    "test": "finetune test runs/mine others.extxyz",
    "predict": "finetune predict runs/mine others.extxyz",
}


class Short(DefaultHelpFormatter):
    """The options that a user changes, without the types and classes that they may have."""

    def start_section(self, heading: str | None) -> None:
        """A heading in our words."""
        known = [ours for theirs, ours in SECTIONS.items() if (heading or "").startswith(theirs)]
        super().start_section(known[0] if known else heading)

    def add_argument(self, action: argparse.Action) -> None:
        """Leave out what is for those who ask for all."""
        if shown(action, fits=self._prog.endswith(" fit")):
            super().add_argument(action)

    def _get_help_string(self, action: argparse.Action) -> str:
        own = {**{f"trainer.{name}": words for name, words in TRAINER.items()}, **OTHERS}.get(action.dest)
        words = own or (action.help or "").strip().removesuffix(".")
        plain = action.default is not None and action.default != argparse.SUPPRESS and "default" not in words
        return words + (" (default: %(default)s)" if plain and action.nargs != 0 else "")


def shown(action: argparse.Action, fits: bool) -> bool:
    """Whether the short help of a fit, or of another command, has it."""
    section, _, name = action.dest.partition(".")
    if action.dest == "model.potential.help":
        return True
    if action.dest.endswith(".help") or action.dest in ("model", "data", "model.loss", "data.keys", "trainer"):
        return False
    if not fits and (name in FITS_ONLY or (section == "model" and not name.startswith(("potential", "loss")))):
        return False
    return name in TRAINER if section == "trainer" else action.dest != "weights_only"


def usage(command: str) -> str:
    """How a command is called, with an example."""
    words = "-c CONFIG [-c CONFIG ...]" if command == "fit" else "RUN [FILE ...]"
    return USAGE.format(command=command, words=words, example=EXAMPLES[command])
