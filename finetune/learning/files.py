"""Files of a campaign: written once, frames that may be none, and a directory that belongs to one campaign."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from finetune import files
from finetune.errors import InputError
from finetune.files import (
    check_directory,
    damaged,
    read_record,
    settled,
    sha256,
    whole,
    write_frames,
    write_text,
)
from finetune.progress import line
from finetune.training.run import git_revision, versions

SETTINGS, PROVENANCE = "settings.json", "provenance.json"
SUMS = "checksums.json"  # of a folder: SHA-256 of the files that are written there by `once`
DIGEST = "sha256"  # entry of the record of a part
POOL, WEIGHTS = "pool", "weights"  # hashes of what explorations may begin with, and of the models that are fitted
LATER = (POOL, WEIGHTS)  # settings that directories of earlier days do not have


def read_frames(path: Path) -> list[Atoms]:
    """The frames of an extended XYZ file of a campaign; none where there is no such file.

    Raises:
        InputError: it is not as it was written.
    """
    if not path.is_file():
        return []
    verified = verify(path)
    if path.stat().st_size == 0:
        if not verified:
            line(f"{path}: empty and without a checksum, as earlier versions wrote it for no frames; taken as such")
        return []
    return files.read_frames(path)


def read_facts(path: Path) -> dict[str, Any]:
    """The content of a JSON file of a campaign.

    Raises:
        InputError: it is not as it was written.
    """
    verify(path)
    return read_record(path)


def once(path: Path, content: Any) -> None:
    """Write frames or plain facts where nothing is written yet, and their checksum into `checksums.json`."""
    if path.exists():
        return
    with whole(path) as partial:
        if path.suffix == ".json":
            partial.write_text(json.dumps(content, indent=1) + "\n")
        else:
            ase.io.write(partial, content, format="extxyz")
        sums = {**_sums(path.parent), path.name: sha256(partial)}
        write_text(path.parent / SUMS, json.dumps(sums, indent=1) + "\n")


def write_part(place: Path, name: str, frames: Sequence[Atoms], facts: Mapping[str, Any]) -> None:
    """Write frames, then their record with their checksum: what has a record is finished."""
    digest = write_frames(place / f"{name}.extxyz", frames)
    write_text(place / f"{name}.json", json.dumps({"name": name, **facts, DIGEST: digest}, indent=1) + "\n")


def read_part(place: Path, name: str) -> tuple[list[Atoms], dict[str, Any]]:
    """Frames and record of `write_part`.

    Raises:
        InputError: one of the files is damaged, or the frames are missing.
    """
    record, frames = place / f"{name}.json", place / f"{name}.extxyz"
    facts = read_record(record, remedy(name))
    if not frames.is_file():
        raise damaged(frames, "it is missing", remedy(name))
    if DIGEST in facts and sha256(frames) != facts[DIGEST]:
        raise damaged(frames, _how(frames), remedy(name))
    return (files.read_frames(frames, remedy(name)) if frames.stat().st_size else []), facts


def remedy(name: str) -> str:
    """Remedy for a damaged part."""
    return f"Remove {name}.extxyz and {name}.json there, and the same command makes both anew."


def part_names(place: Path) -> list[str]:
    """Names of the finished parts in a directory, in order."""
    return sorted(path.stem for path in place.glob("*.json"))


def check_files(folder: Path) -> None:
    """Raise `InputError` where a file of a folder is not as it was written."""
    for name in _sums(folder):
        if (folder / name).is_file():
            verify(folder / name)


def verify(path: Path) -> bool:
    """Compare a file with its checksum; false where it has none, as in campaigns of earlier versions.

    Raises:
        InputError: they differ.
    """
    expected = _sums(path.parent).get(path.name)
    if expected is not None and sha256(path) != expected:
        raise damaged(path, _how(path))
    return expected is not None


def _sums(folder: Path) -> dict[str, Any]:
    path = folder / SUMS
    return (
        read_record(path, f"Remove it; the files in {folder} are read without checksums then.") if path.exists() else {}
    )


def _how(path: Path) -> str:
    return "its checksum differs from its content" if path.stat().st_size else "it is empty"


def check_campaign(directory: Path) -> None:
    """Raise `InputError` for a directory that is neither empty nor one of a campaign."""
    if not (directory / SETTINGS).is_file() and any(directory.glob("generation-*")):
        raise InputError(f"{directory} holds generations of something else; choose another --directory")
    check_directory(directory, (SETTINGS, PROVENANCE), "a campaign")


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
    if record.is_file():
        before = read_record(record, "Take it from a copy, or choose another --directory.")
        settings = {name: value for name, value in settings.items() if name not in LATER or name in before}
    if settled(record, settings, "campaign"):
        return
    check_campaign(directory)
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()
    about = {"seed": seed, "settings": digest, "versions": versions(), "git": git_revision(), "command": sys.argv[1:]}
    write_text(directory / PROVENANCE, json.dumps(about, indent=1) + "\n")
    write_text(record, json.dumps(settings, indent=1) + "\n")
