"""Dispatch of `finetune COMMAND`; a user's mistake ends in one line that says what, what was got and the remedy."""

from __future__ import annotations

import errno
import importlib
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from finetune import display, permissions
from finetune.cli.allowing import limited_parsing
from finetune.cli.signals import terminable
from finetune.errors import InputError, message_inside, unknown
from finetune.progress import Progress

COMMANDS = {
    "fit": ("finetune.cli.lightning:run", "fine-tune a potential on labelled structures"),
    "validate": ("finetune.cli.lightning:run", "loss and errors of a model on the validation frames"),
    "test": ("finetune.cli.lightning:run", "loss and errors of a model on the test frames"),
    "predict": ("finetune.cli.lightning:run", "energies, forces and stress of structures, as extended XYZ"),
    "evaluate": (
        "finetune.cli.evaluate:run",
        "table of errors of a model on labelled structures, per family and element",
    ),
    "grade": ("finetune.cli.uncertainty:run_grade", "add extrapolation grades to a model, from its training frames"),
    "calibrate": ("finetune.cli.uncertainty:run_calibrate", "add calibrated errors of forces, from held-out frames"),
    "doctor": ("finetune.cli.doctor:run", "check labelled structures before training: verdicts and remedies"),
    "md": ("finetune.cli.md:run", "molecular dynamics with guards, from a model"),
    "compare": ("finetune.cli.compare:run", "every potential beside DFT, in one report"),
    "export": ("finetune.cli.export:run", "a model for LAMMPS, or as a single file"),
    "models": ("finetune.cli.models:run", "known model names and their licences"),
    "sample": ("finetune.cli.sample:run", "make structures by recipes, labelled by a model"),
    "phases": ("finetune.cli.phases:run", "products and reaction energies of two reactants, from a convex hull"),
    "learn": ("finetune.cli.learn:run", "active learning: explore, select, label, fit again"),
    "label": ("finetune.cli.label:run", "label structures by DFT (GPAW, Quantum ESPRESSO, CP2K, VASP)"),
}

TRUSTING = ("evaluate", "grade", "calibrate", "doctor")  # commands that have the option --trusted themselves

# Failures of the file system that are a matter of the user's paths and disk.
TOLD = {
    *(errno.ENOSPC, errno.EACCES, errno.EROFS, errno.ENOENT, errno.EDQUOT, errno.EFBIG),
    *(errno.EEXIST, errno.ENOTDIR, errno.EISDIR),
}


HELP = """usage: finetune COMMAND ...

Fine-tune universal interatomic potentials on your DFT data, and see how far the result can be trusted.

{commands}

finetune COMMAND --help tells the options of a command. A first fit:

  finetune fit -c configs/base.yaml -c configs/chgnet.yaml --data.train my_frames.extxyz

(validation frames are then a part of it, by group; --data.valid and --data.test name others)

A MODEL is a name (chgnet, chgnet:r2scan, mace:mini, mace:medium-mpa-0), a run directory, the directory of a campaign
of active learning, a checkpoint (.ckpt), or a third-party MACE file (mace:PATH.model).

Every command takes
  --allow NAME   build this class, or those of this module, where a config names it; it can run any code
  --trusted      open .model files that cannot be read without running code"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; exit status 0, 1 after a mistake that a message explains, 2 for wrong usage, 130 if stopped.

    Stopped by SIGTERM it is 143. A command may give another status: that of
    `doctor` is 1 where training should not go on.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    before, warnings.formatwarning = warnings.formatwarning, one_line
    try:
        arguments, given = permissions.parsed(arguments)
        command = arguments[0] if arguments else "--help"
        if command in ("-h", "--help"):
            print(HELP.format(commands="\n".join(f"  {name:<10} {about}" for name, (_, about) in COMMANDS.items())))
            return 0
        if command == "--version":
            print(importlib.import_module("finetune").__version__)
            return 0
        if command not in COMMANDS:
            raise unknown("command", command, COMMANDS)
        if command not in TRUSTING:
            arguments = permissions.without_trusted(arguments)
        with permissions.limited(given), limited_parsing(), terminable() as received:
            return stoppable(COMMANDS[command][0], arguments, received)
    except InputError as error:
        return _tell(str(error))
    except UnicodeDecodeError as error:
        return _tell(f"a configuration is not UTF-8 text ({error.reason} at byte {error.start}); take a sound copy")
    except ValueError as error:  # a parser wraps what a constructor raises
        found = message_inside(error)
        if found is None:
            raise
        return _tell(found)
    except OSError as error:
        if error.errno not in TOLD:
            raise
        return _tell(f"{error.strerror}: {error.filename or 'while writing'}; check the path and the space on the disk")
    finally:
        warnings.formatwarning = before


def stoppable(place: str, arguments: list[str], received: list[int]) -> int:
    """Exit status of a command: 130 after Ctrl-C, 143 after SIGTERM, with a line how to go on.

    Args:
        place: module and function of the command, `module:function`.
        arguments: its name and arguments.
        received: gets the number of SIGTERM.
    """
    try:
        with Progress(arguments[0]):
            module, _, function = place.partition(":")
            run: Callable[[list[str]], int | None] = getattr(importlib.import_module(module), function)
            return run(arguments) or 0
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and not received:
            raise
        by = " by SIGTERM" if received else ""
        remedy = "--ckpt_path last goes on with a fit" if arguments[0] == "fit" else "the same command goes on"
        print(f"stopped{by}; what was finished is on disk, and {remedy}", file=sys.stderr)
        return 128 + (received or [signal.SIGINT])[0]


def one_line(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """A warning in one line: the text alone for the user of this package, with its place for those of others."""
    own = Path(__file__).parents[1] in Path(filename).parents
    where = "" if own else f"{Path(filename).name}:{lineno}: {category.__name__}: "
    return display.message(f"warning: {where}{message}\n")


def _tell(message: str) -> int:
    print(display.message(f"error: {message}"), file=sys.stderr)
    return 1
