"""Files are written whole or not at all: under another name first, then renamed."""

from __future__ import annotations

import contextlib
import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms

from finetune.errors import InputError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """The name to write under; the file gets its own name when the block ends, and is removed when that fails.

    Raises:
        InputError: the disk is full or not writable.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); free some space or choose another directory") from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink()


@contextlib.contextmanager
def locked(directory: Path, message: str) -> Iterator[None]:
    """Keep other processes out of a directory, which is made, until the block or this process ends.

    Raises:
        InputError: another process is at it, with the message; or it cannot be made or written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        opened = (directory / "lock").open("w")
    except OSError as error:
        raise InputError(f"cannot write into {directory} ({error.strerror}); choose another directory") from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # the system lifts it when the process ends
        except BlockingIOError as error:
            raise InputError(message) from error
        yield


def sweep(directory: Path) -> None:
    """Remove what a command that was killed has left half written, files and folders."""
    for path in directory.rglob("*.partial"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def settled(record: Path, settings: Mapping[str, Any], what: str) -> bool:
    """Whether a record holds these settings; false where there is no record.

    Args:
        record: a JSON file.
        settings: plain values by name.
        what: that the directory is of, in words.

    Raises:
        InputError: it holds other settings, with the names of those that differ, or is damaged.
    """
    if not record.is_file():
        return False
    try:
        before = json.loads(record.read_text())
    except ValueError:
        raise InputError(f"{record} is damaged; choose another directory") from None
    differ = [name for name in settings if before.get(name) != settings[name]]
    if differ:
        raise InputError(
            f"{record.parent} is that of another {what}: {', '.join(differ)} differ; choose another directory, or give "
            "what it was begun with"
        )
    return True


def write_text(path: Path, text: str) -> None:
    """Write a text whole; see `whole`."""
    with whole(path) as partial:
        partial.write_text(text)


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames as extended XYZ, whole; see `whole`."""
    with whole(path) as partial:
        ase.io.write(partial, list(frames), format="extxyz")
