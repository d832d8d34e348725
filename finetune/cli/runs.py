"""`finetune predict | validate | test RUN [FILES]`: arguments from the plain data of a run directory.

A run's `config.yaml` names classes, so it is code. Here only its numbers, words and file names under known keys are
read; the potential is that of the checkpoint, which is plain data as well.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from finetune.data.labels import LabelKeys
from finetune.errors import InputError
from finetune.loss import KINDS, Loss

CONFIG = "config.yaml"
PARTS = {"validate": "valid", "test": "test", "predict": "predict"}
KEYS = tuple(field.name for field in fields(LabelKeys))
WEIGHTS = tuple(field.name for field in fields(Loss) if field.name not in ("kind", "stages"))


def of_run(arguments: Sequence[str]) -> list[str]:
    """Arguments with options in place of RUN and FILES, which come first; the user's own options win.

    Args:
        arguments: the command, then RUN (a run directory, a checkpoint, or a model name) and files, then options.

    Raises:
        InputError: the run's config is damaged, or has a value of another kind under a known key.
    """
    method, *rest = arguments
    count = next((k for k, word in enumerate(rest) if word.startswith("-")), len(rest))
    if not count:
        return list(arguments)
    (run, *files), options = rest[:count], rest[count:]
    place = Path(run) if Path(run).is_dir() else Path(run).parent if Path(run).is_file() else None
    part = PARTS[method]
    made = [f"--model.potential={run}"]
    if place is not None:
        made += recorded(place / CONFIG, part, bool(files))
        made += [f"--trainer.default_root_dir={place}"] if method == "predict" else []
    if files:
        made.append(f"--data.{part}={json.dumps(files)}")
    return [method, *made, *options]


def recorded(path: Path, part: str, has_files: bool) -> list[str]:
    """Options from the plain settings of a run.

    Args:
        path: the run's config.
        part: the part of the data that the command takes.
        has_files: whether the user names the files of this part, so that those of the run are left out.
    """
    try:
        content = yaml.safe_load(path.read_text()) if path.is_file() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{path}: got no YAML ({' '.join(str(error).split())}). Restore or remove it") from error
    data, loss = (_section(content, *names) for names in (("data",), ("model", "loss")))
    keys = _section(data, "keys")
    options = _plain(path, "data.keys", keys, KEYS, (str, type(None)))
    options += _plain(path, "data", data, ("batch_edges",), (int,))
    options += _plain(path, "data", data, ("units",), (bool,))
    options += _plain(path, "model.loss", loss, WEIGHTS, (int, float))
    if loss.get("kind") in KINDS:
        options.append(f"--model.loss.kind={loss['kind']}")
    if part != "predict" and not has_files:
        options += _files(path, data, ("train", part))
        options += _plain(path, "data", data, ("seed",), (int,))
        options += _plain(path, "data", data, ("split",), (list,), (int, float))
    return options


def _section(content: Any, *names: str) -> Mapping[str, Any]:
    """A mapping inside another; empty where there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, Mapping) else {}


def _files(path: Path, data: Mapping[str, Any], parts: Sequence[str]) -> list[str]:
    """Options for the files of parts of the data."""
    several = {part: [data[part]] if isinstance(data.get(part), str) else data.get(part) for part in parts}
    given = {part: files for part, files in several.items() if files is not None}
    return _plain(path, "data", given, tuple(given), (list,), (str,))


def _plain(
    path: Path,
    section: str,
    content: Mapping[str, Any],
    names: Sequence[str],
    kinds: tuple[type, ...],
    of: tuple[type, ...] = (),
) -> list[str]:
    """Options for the values under some names; values, and items of lists, are of plain kinds."""
    options = []
    for name in names:
        if name not in content:
            continue
        value = content[name]
        items = value if isinstance(value, list) else []
        if type(value) not in kinds or any(type(item) not in of for item in items):
            expected = " or ".join(kind.__name__ for kind in kinds)
            raise InputError(f"{path}, {section}.{name}: got {value!r}, expected {expected}. Correct it or remove it")
        options.append(f"--{section}.{name}={value if isinstance(value, str) else json.dumps(value)}")
    return options
