"""What commands take from a user: a structure in a file, a calculator by the name of a model."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonargparse
import yaml
from ase.calculators.calculator import Calculator

from finetune import display
from finetune.cli import allowing
from finetune.data.splitting import PARTS
from finetune.errors import InputError

NO_CLASS = re.compile(r"module '([\w.]+)' has no attribute '(\w+)'")
NO_OPTION = re.compile(r"class_path '([\w.]+)\.(\w+)':\s+Option '(\w+)' is not accepted")


class Parser(jsonargparse.ArgumentParser):
    """A parser of YAML files that offers the nearest known class or setting."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Tell what is wrong and leave with status 2."""
        super().error(display.message(allowing.explained(message + nearest(message))), ex)


def nearest(message: str) -> str:
    """What may have been meant by a class, or a setting of one, that a parser does not know; empty if nothing near."""
    if allowing.DENIED.search(message):
        return ""
    if found := NO_CLASS.search(message):
        module, wrong = found.groups()
        known = [name for name in dir(importlib.import_module(module)) if not name.startswith("_")]
    elif found := NO_OPTION.search(message):
        module, name, wrong = found.groups()
        known = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
    else:
        return ""
    near = difflib.get_close_matches(wrong, known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def parser(command: str, description: str, usage: str | None = None) -> jsonargparse.ArgumentParser:
    """The parser of a command that takes YAML files by `-c`, which stack, before any option is added.

    Args:
        command: its name.
        description: what it does.
        usage: what follows `finetune COMMAND` in its usage; None leaves that to the parser.
    """
    name = f"finetune {command}"
    made = Parser(prog=name, usage=usage and f"{name} {usage}", description=description)
    made.add_argument("-c", "--config", action="config", help="YAML file with any of the options; several stack")
    return made


def given(options: jsonargparse.Namespace) -> dict[str, Any]:
    """Built options without the files that they came from."""
    return {name: value for name, value in options.items() if name != "config"}


def built(
    calculator: Calculator | str | Sequence[str], device: str | None = None, dtype: str | None = None
) -> Calculator:
    """The calculator behind a model name, or of several a committee; a calculator stays what it is."""
    if isinstance(calculator, Calculator):
        return calculator
    from finetune import calculators

    return calculators.calculator(calculator, device, dtype)


def switched(arguments: Sequence[str], option: str = "--trusted") -> list[str]:
    """Arguments of a command line in which the option alone means true."""
    following = [*arguments[1:], ""]
    return [
        f"{option}=true" if word == option and after not in ("true", "false") else word
        for word, after in zip(arguments, following, strict=True)
    ]


def own_data(arguments: Sequence[str], prefix: str) -> list[str]:
    """Arguments in which training frames leave out what an earlier config names as valid and test: of other data.

    Args:
        arguments: of a command line, with configs that stack; its options come last.
        prefix: of the options `train`, `valid` and `test`; `--data.` looks below `data` in configs.
    """
    typed = {word.partition("=")[0].rstrip("+").removeprefix(prefix) for word in arguments if word.startswith(prefix)}
    sources = [_parts(Path(name), prefix) for name in configs(arguments)]
    known: set[str] = set(PARTS)  # parts that are named beside the last training frames, or behind
    for named in (*sources, typed):
        known = named if "train" in named else known | named
    return [*arguments, *(f"{prefix}{part}=null" for part in PARTS[1:] if part not in known)]


def configs(arguments: Sequence[str]) -> list[str]:
    """The files that `-c` names."""
    following = zip(arguments, [*arguments[1:], ""], strict=True)
    pairs = [(*word.partition("=")[::2], after) for word, after in following]
    return [value or after for option, value, after in pairs if option in ("-c", "--config")]


def _parts(path: Path, prefix: str) -> set[str]:
    """The parts of the data that a config names; none where it cannot be read, which is told by others."""
    try:
        content = yaml.safe_load(path.read_text())
        for key in prefix.strip("-.").split(".") if prefix.strip("-.") else []:
            content = content[key]
        return {part for part in PARTS if part in content}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError):
        return set()


def new_file(name: str) -> Path:
    """The path of a file that is to be written.

    Raises:
        InputError: it is there already.
    """
    path = Path(name)
    if path.exists():
        raise InputError(f"{path} is there already; choose another --output, or remove it")
    return path
