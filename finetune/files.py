"""Files are written whole or not at all: under another name first, then renamed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

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


def write_text(path: Path, text: str) -> None:
    """Write a text whole; see `whole`."""
    with whole(path) as partial:
        partial.write_text(text)


def write_frames(path: Path, frames: Sequence[Atoms]) -> None:
    """Write frames as extended XYZ, whole; see `whole`."""
    with whole(path) as partial:
        ase.io.write(partial, list(frames), format="extxyz")
