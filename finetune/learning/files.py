"""Files of a campaign: written once, frames that may be none, and a directory that belongs to one campaign."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from finetune.errors import InputError
from finetune.files import settled, whole, write_frames, write_text
from finetune.training.run import git_revision, versions

SETTINGS = "settings.json"
POOL, WEIGHTS = "pool", "weights"  # hashes of what explorations may begin with, and of the models that are fitted
LATER = (POOL, WEIGHTS)  # settings that directories of earlier days do not have


def read_frames(path: Path) -> list[Atoms]:
    """The frames of an extended XYZ file; none of an empty one or one that is not there."""
    if not path.is_file() or path.stat().st_size == 0:
        return []
    return list(ase.io.iread(path, ":", format="extxyz"))


def once(path: Path, content: Any) -> None:
    """Write frames or plain facts where nothing is written yet."""
    if path.exists():
        return
    if path.suffix == ".json":
        write_text(path, json.dumps(content, indent=1) + "\n")
    else:
        write_frames(path, content)


def copy(source: Path, target: Path) -> None:
    """Copy a file, whole."""
    if not target.exists():
        with whole(target) as partial_file:
            shutil.copyfile(source, partial_file)


def claim(directory: Path, settings: dict[str, str], seed: int) -> None:
    """Write the settings and where they come from into a new directory.

    Raises:
        InputError: the directory is that of a campaign with other settings.
    """
    record = directory / SETTINGS
    before = record.read_text() if record.is_file() else None
    if before is not None:
        settings = {name: value for name, value in settings.items() if name not in LATER or f'"{name}"' in before}
    if settled(record, settings, "campaign"):
        return
    if directory.is_dir() and any(path.name.startswith("generation-") for path in directory.iterdir()):
        raise InputError(f"{directory} holds generations of something else; choose another --directory")
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    about = {"seed": seed, "settings": digest, "versions": versions(), "git": git_revision(), "command": sys.argv[1:]}
    write_text(directory / "provenance.json", json.dumps(about, indent=1) + "\n")
    write_text(record, json.dumps(settings, indent=1) + "\n")
