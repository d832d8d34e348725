"""Files are written whole or not at all, and stay there after a power cut.

A file is written under a temporary name in its own directory, put on the disk (fsync), and renamed; then the directory
is put on the disk. Links are not followed: they are replaced, or refused where a file grows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import ase.io
from ase import Atoms

from finetune.errors import InputError
from finetune.locks import LOCK, SOFT

SUFFIX = ".partial"  # of temporary names, NAME.12 hexadecimal digits.partial
TEMPORARY = re.compile(r".+\.[0-9a-f]{12}\.partial")
UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EBADF)  # file systems that cannot put a directory on the disk
LOCKS = (LOCK, SOFT)
# what ASE raises on an extended XYZ file that is cut or altered
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, AssertionError, StopIteration)
AGAIN = "Remove it, and the same command makes it anew."


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name to write under; the file gets its own name when the block ends, and is removed on failure.

    Raises:
        InputError: the disk is full or not writable.
    """
    partial: Path | None = None
    try:
        make_folder(path.parent)
        partial = temporary_name(path)
        os.close(os.open(partial, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))  # as mkstemp, with the umask's mode
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    except OSError as error:
        raise InputError(f"cannot write {path} ({error}); free some space or choose another directory") from error
    finally:
        if partial is not None:
            with contextlib.suppress(OSError):
                partial.unlink()


def temporary_name(path: Path) -> Path:
    """A name beside a path that no other process uses, for what is not finished."""
    return path.with_name(f"{path.name}.{secrets.token_hex(6)}{SUFFIX}")


def sync(path: Path) -> None:
    """Put a file or the entries of a directory on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED or not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a directory and those above it, and put them on the disk."""
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def new_file(path: Path) -> BinaryIO:
    """Open a new empty file, unbuffered, in place of a former one, whose content under other names stays.

    Raises:
        InputError: the path is a link or not a file.
    """
    with contextlib.suppress(FileNotFoundError):
        _own(path)
        path.unlink()
    stream = os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666), "r+b", buffering=0)
    sync(path.parent)
    return stream


def growing_file(path: Path, size: int) -> BinaryIO:
    """Open a file to add to it, unbuffered and cut to `size` bytes; content under other names stays.

    Raises:
        InputError: the path is a link, not a file, or shorter than `size`.
    """
    if size == 0:
        return new_file(path)
    if path.exists() and _own(path).st_nlink > 1:  # a backup by hard links, or a link that somebody has planted
        with whole(path) as partial:
            shutil.copyfile(path, partial)
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    stream = os.fdopen(os.open(path, flags, 0o666), "r+b", buffering=0)
    if os.fstat(stream.fileno()).st_size < size:
        stream.close()
        raise InputError(f"{path} is shorter than when the checkpoint was written; take a copy, or begin anew")
    stream.truncate(size)
    stream.seek(size)
    return stream


def _own(path: Path) -> os.stat_result:
    """Status of a regular file that is not a symbolic link."""
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        kind = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "no regular file"
        raise InputError(f"{path}: got {kind}, expected a file that this command writes. Remove it.")
    return status


def check_no_link(path: Path) -> None:
    """Raise `InputError` where a file that is written to is a link or not a file."""
    with contextlib.suppress(FileNotFoundError):
        _own(path)


def check_directory(directory: Path, own: Sequence[str], what: str) -> None:
    """Raise `InputError` where a directory has files and none of those that mark it as one of a command.

    Args:
        directory: that a command is to write into; one that is missing or empty passes.
        own: names of the files that mark it, one of which is enough.
        what: that the directory is to be of, in words.
    """
    if not directory.exists():
        return
    if not directory.is_dir():
        raise InputError(f"{directory} is a file; choose another directory")
    others = sorted(path.name for path in directory.iterdir() if path.name not in LOCKS and not is_temporary(path))
    if others and not any((directory / name).is_file() for name in own):
        raise InputError(
            f"{directory}: got a directory that holds other files ({', '.join(others[:3])}), expected a new one or one "
            f"of {what}. Choose a new directory."
        )


def is_temporary(path: Path) -> bool:
    """Whether a name is one that `whole` or `temporary_name` has made."""
    return TEMPORARY.fullmatch(path.name) is not None


def sweep(directory: Path, below: bool = True) -> None:
    """Remove unfinished files and folders of commands that were killed; call it with the lock of the directory.

    Args:
        directory: of one command.
        below: in its subdirectories too.
    """
    for path in list(directory.rglob(f"*{SUFFIX}") if below else directory.glob(f"*{SUFFIX}")):
        if not is_temporary(path):
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def damaged(path: Path, reason: str, remedy: str = AGAIN) -> InputError:
    """An `InputError` for a file that is not as it was written."""
    return InputError(f"{path}: got a damaged file ({reason}), expected it as it was written. {remedy}")


def read_record(path: Path, remedy: str = AGAIN) -> dict[str, Any]:
    """The content of a JSON file that holds one object.

    Args:
        path: of the file.
        remedy: ends the message where it is damaged.

    Raises:
        InputError: empty, cut, or not such a file.
    """
    try:
        text = path.read_text()
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(path, "it is empty" if not path.stat().st_size else f"no JSON: {error}", remedy) from None
    if not isinstance(content, dict):
        raise damaged(path, f"a {type(content).__name__} in place of an object", remedy)
    return content


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
    before = read_record(record, "Take it from a copy, or choose another directory.")
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


def write_frames(path: Path, frames: Sequence[Atoms]) -> str:
    """Write frames as extended XYZ, whole; see `whole`. Return the SHA-256 of the file."""
    with whole(path) as partial:
        ase.io.write(partial, list(frames), format="extxyz")
        return sha256(partial)


def read_frames(path: Path, remedy: str = AGAIN) -> list[Atoms]:
    """Frames of a file of `write_frames`, one or more.

    Args:
        path: of the file.
        remedy: ends the message where it is damaged.

    Raises:
        InputError: the file is empty, or cut within a frame.
    """
    try:
        frames = list(ase.io.iread(path, ":", format="extxyz")) if path.stat().st_size else []
    except UNREADABLE as error:
        raise damaged(path, " ".join(str(error).split()) or type(error).__name__, remedy) from error
    if not frames:
        raise damaged(path, "it is empty", remedy)
    return frames


def sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
