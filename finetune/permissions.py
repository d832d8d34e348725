"""Classes that a command may import by name, and pickles that it may open.

A configuration names classes, and a class runs code. A command builds classes of this package, of a few modules of its
dependencies, and of registered plug-ins; any other needs `--allow NAME`. A third-party pickle needs `--trusted`. Both
exist on the command line only. Python code that imports this package is not limited.

The working directory is not on `sys.path`: a module in it is imported if `--allow` names it and if nothing else has its
name. Processes that a command starts inherit what it may do.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import importlib.abc
import importlib.machinery
import importlib.metadata
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from finetune.errors import InputError

PLUGINS = "finetune.plugins"  # entry points: packages, modules or classes that configurations may name
ALLOW, TRUSTED = "--allow", "--trusted"
INHERITED = "FINETUNE_PERMISSIONS"  # environment of the processes that a command starts

# Calculators that compute in this process: they start no program, import nothing by name and read no pickle.
CALCULATORS = (
    *("finetune.calculator", "finetune.calculators.calculator", "gpaw.GPAW", "ace_jax.ACECalculator"),
    *("chgnet.model.CHGNetCalculator", "chgnet.model.dynamics.CHGNetCalculator"),
    *("ase.calculators.acn.ACN", "ase.calculators.counterions.AtomicCounterIon", "ase.calculators.eam.EAM"),
    *("ase.calculators.emt.EMT", "ase.calculators.ff.ForceField", "ase.calculators.h2morse.H2Morse"),
    *("ase.calculators.lj.LennardJones", "ase.calculators.morse.MorsePotential", "ase.calculators.tersoff.Tersoff"),
    *("ase.calculators.tip3p.TIP3P", "ase.calculators.tip4p.TIP4P"),
)
# Names, and beginnings of names, of classes that a parser checks against the type of the option.
CLASSES = (
    *("finetune", "concurrent.futures", "torch.optim", *CALCULATORS),
    *("lightning.pytorch.callbacks", "lightning.pytorch.strategies", "lightning.pytorch.accelerators"),
    *("lightning.pytorch.profilers", "lightning.pytorch.plugins", "lightning.fabric.plugins"),
    *("lightning.pytorch.loggers.WandbLogger", "lightning.pytorch.loggers.wandb.WandbLogger"),
    *("lightning.pytorch.loggers.CSVLogger", "lightning.pytorch.loggers.csv_logs.CSVLogger"),
    *("lightning.pytorch.loggers.TensorBoardLogger", "lightning.pytorch.loggers.tensorboard.TensorBoardLogger"),
)


@dataclass(frozen=True)
class Permissions:
    """Permissions of one command.

    Attributes:
        allow: names of `--allow`: classes, or packages and modules with all that they hold.
        trusted: whether foreign pickles are opened.
        directory: the working directory of the command.
    """

    allow: tuple[str, ...] = ()
    trusted: bool = False
    directory: str = ""

    def allows(self, name: str, known: Sequence[str]) -> bool:
        """Whether a dotted name is one of these, or inside one of them."""
        return any(name == one or name.startswith(f"{one}.") for one in (*known, *plugins(), *self.allow))


class WorkingDirectory(importlib.abc.MetaPathFinder):
    """Finds allowed modules in the working directory, after all other places."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find a top-level module that `--allow` names."""
        if _given is None or path is not None or fullname not in {name.partition(".")[0] for name in _given.allow}:
            return None
        return importlib.machinery.PathFinder.find_spec(fullname, [_given.directory])


_given: Permissions | None = None
_finder = WorkingDirectory()


def parsed(arguments: Sequence[str]) -> tuple[list[str], Permissions]:
    """Split a command line into the arguments without `--allow`, and its permissions.

    Raises:
        InputError: `--allow` without a dotted name.
    """
    rest: list[str] = []
    names: list[str] = []
    trusted = False
    words = list(arguments)
    while words:
        word = words.pop(0)
        following = words[0] if words else ""
        option, _, value = word.partition("=")
        if option == ALLOW:
            name = value or (words.pop(0) if words else "")
            if not all(part.isidentifier() for part in name.split(".")):
                raise InputError(f"{ALLOW}: got {name!r}, expected a class or a module. Give {ALLOW} module.Class")
            names.append(name)
            continue
        trusted |= option == TRUSTED and (value or following) != "false"
        rest.append(word)
    before = _given or Permissions()
    return rest, Permissions((*before.allow, *names), trusted or before.trusted, str(Path.cwd()))


def without_trusted(arguments: Sequence[str]) -> list[str]:
    """The arguments without `--trusted`, for a command that has no option of this name."""
    rest: list[str] = []
    for word, before in zip(arguments, ["", *arguments], strict=False):
        own = word.partition("=")[0] == TRUSTED
        if not own and not (before == TRUSTED and word in ("true", "false")):
            rest.append(word)
    return rest


@contextlib.contextmanager
def limited(permissions: Permissions) -> Iterator[None]:
    """Limit this process, and those that it starts, to some permissions until the block ends."""
    before, environment = _given, {name: os.environ.get(name) for name in (INHERITED, "PYTHONSAFEPATH")}
    os.environ[INHERITED] = json.dumps(asdict(permissions))
    os.environ["PYTHONSAFEPATH"] = "1"  # a process that is spawned would look for modules in its directory first
    _limit(permissions)
    try:
        yield
    finally:
        _limit(before)
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def inherit() -> None:
    """Take over the permissions of the command that has started this process."""
    content = json.loads(os.environ[INHERITED])
    _limit(Permissions(tuple(content["allow"]), content["trusted"], content["directory"]))


def _limit(permissions: Permissions | None) -> None:
    global _given
    _given = permissions
    if _finder not in sys.meta_path:
        sys.meta_path.append(_finder)


def names() -> list[str]:
    """All names that a parser may import: those of `CLASSES`, of plug-ins, and of `--allow` with their definitions.

    Raises:
        InputError: `--allow` names something that is not there.
    """
    given = _given.allow if _given is not None else ()
    return [*CLASSES, *plugins(), *given, *filter(None, map(_definition, given))]


def plugins() -> list[str]:
    """Names that installed packages register under the entry point `finetune.plugins`."""
    return [point.value.replace(":", ".") for point in importlib.metadata.entry_points(group=PLUGINS)]


def _definition(name: str) -> str:
    """Where the class behind a dotted name is defined; empty for a module."""
    module, _, last = name.rpartition(".")
    try:
        if not module or importlib.util.find_spec(name) is not None:
            return ""
    except ModuleNotFoundError as error:
        if error.name is not None and not name.startswith(error.name):
            raise InputError(f"{ALLOW} {name}: it needs {error.name}, which is not installed. Install it") from error
    try:
        found = getattr(importlib.import_module(module), last)
    except (ImportError, AttributeError) as error:
        raise InputError(f"{ALLOW}: got {name}, expected a class that can be imported ({error})") from error
    return f"{getattr(found, '__module__', module)}.{getattr(found, '__qualname__', last)}"


def check(name: str) -> None:
    """Check that a configuration may name a calculator, or a class in its settings.

    Raises:
        InputError: it is not one of `CALCULATORS`, of a plug-in or of `--allow`.
    """
    if _given is not None and not _given.allows(name, CALCULATORS):
        near = difflib.get_close_matches(name, CALCULATORS, n=1, cutoff=0.9)
        raise InputError(refusal(name) + (f"; did you mean {near[0]!r}?" if near else ""))


def refusal(name: str) -> str:
    """The message about a class that is not allowed."""
    return (
        f"class {name}: got a class that can run any code or program, expected one of this package, its dependencies "
        f"or a registered plug-in. If you trust it and its settings, add {ALLOW} {name}"
    )


def may_unpickle(trusted: bool) -> bool:
    """Whether a foreign pickle may be opened: in a command only with `--trusted`, in Python with `trusted=True`."""
    return trusted if _given is None else _given.trusted
