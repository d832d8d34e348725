"""Directories that one process at a time writes into.

The lock is that of the system (flock): it ends with the process that holds it, however that ends. Where a file system
has no flock, it is a file that names host and process (`lock.soft`); the next command on the same host removes it when
that process is gone. Heavy modules are not imported here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import stat
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import SoftFileLock, Timeout, lock_descriptor

from finetune.errors import InputError

LOCK, SOFT = "lock", "lock.soft"
WITHOUT_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK)
TRIES = 100  # to take a lock file that somebody removes again and again


class Busy(Exception):
    """Another process holds a lock; the text names it."""


@dataclass
class Held:
    """A lock file that this process holds.

    Attributes:
        path: of the file.
        descriptor: of the open file.
        soft: the lock in its place on a file system without flock.
    """

    path: Path
    descriptor: int
    soft: SoftFileLock | None

    def is_there(self) -> bool:
        """Whether the file still has its name, so that other processes see the lock."""
        try:
            return os.path.samestat(os.fstat(self.descriptor), self.path.lstat())
        except OSError:
            return False

    def release(self, empty: bool = True) -> None:
        """Give the lock back; a second call does nothing.

        Args:
            empty: remove the note of the holder from the file.
        """
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor < 0:
            return
        with contextlib.suppress(OSError):
            if empty:
                os.ftruncate(descriptor, 0)
        os.close(descriptor)
        if self.soft is not None:
            self.soft.release()


@contextlib.contextmanager
def locked(directory: Path, remedy: str = "choose another directory") -> Iterator[None]:
    """Keep other processes out of a directory, which is made, until the block or this process ends.

    Args:
        directory: that is written into.
        remedy: beside waiting, for the message where another process holds it.

    Raises:
        InputError: another process holds it (the message names host and process); it cannot be made or written to; it
            was removed or replaced before the block ended.
    """
    made = not directory.exists()
    try:
        directory.mkdir(parents=True, exist_ok=True)
        held = take(directory / LOCK)
    except Busy as busy:
        raise InputError(
            f"{directory}: got a directory that {busy} writes into, expected one that no other process uses. Wait for "
            f"it, or {remedy}."
        ) from None
    except (FileExistsError, NotADirectoryError):
        place = next(one for one in (directory, *directory.parents) if one.exists())
        raise InputError(f"{place} is a file; choose another directory") from None
    except OSError as error:
        raise InputError(f"cannot write into {directory} ({error.strerror}); choose another directory") from error
    try:
        if held.soft is not None:
            print(f"{directory}: this file system has no locks; {SOFT} takes their place", file=sys.stderr)
        yield
        if not held.is_there():
            raise InputError(
                f"{directory}: got a directory that was removed or replaced while the command ran, expected it to "
                "stay. What was written before that is not in it; run the command again."
            )
    finally:
        if made and held.is_there() and os.listdir(directory) == [LOCK]:  # nothing came of the command
            shutil.rmtree(directory, ignore_errors=True)
        held.release()


def take(path: Path) -> Held:
    """Take a lock file without waiting; it is made where it is missing.

    Raises:
        Busy: another process holds it.
        InputError: the file is a link, or not a lock file.
        OSError: it cannot be opened.
    """
    for _ in range(TRIES):
        held = _take(path)
        if held is not None and held.is_there():
            return held
        if held is not None:
            held.release()  # removed by another process before it was locked
    raise OSError(errno.EAGAIN, "the lock file is removed again and again", str(path))


def _take(path: Path) -> Held | None:
    """Take a lock file; None where it had another name too (a backup by hard links) and was removed."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise _foreign(path) from error
    try:
        status = os.fstat(descriptor)
        note = os.pread(descriptor, 4096, 0) if stat.S_ISREG(status.st_mode) else b"no file"
        if note and not note.startswith(b'{"process": '):
            raise _foreign(path)
        soft = _lock(path, descriptor, note)
        if status.st_nlink > 1:
            path.unlink()
            Held(path, descriptor, soft).release(empty=False)
            return None
    except BaseException:
        os.close(descriptor)
        raise
    held = Held(path, descriptor, soft)
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _note(), 0)
    except BaseException:
        held.release()
        raise
    return held


def _lock(path: Path, descriptor: int, note: bytes) -> SoftFileLock | None:
    """Lock an open file; the soft lock where the file system has no other."""
    try:
        if not lock_descriptor(descriptor, blocking=False):
            raise Busy(_who(note))
    except OSError as error:
        if error.errno not in WITHOUT_FLOCK:
            raise
    else:
        return None
    soft = SoftFileLock(path.with_name(SOFT), timeout=0, thread_local=False)
    try:
        soft.acquire()
    except Timeout:
        raise Busy(_who(note)) from None
    return soft


def _foreign(path: Path) -> InputError:
    return InputError(f"{path}: got a link or a file of something else, expected a lock file of finetune. Remove it.")


def _note() -> bytes:
    """The holder of a lock, for messages."""
    command = " ".join(["finetune", *sys.argv[1:2]])
    since = datetime.now().isoformat(" ", "seconds")
    about = {"process": os.getpid(), "host": socket.gethostname(), "command": command, "since": since}
    return (json.dumps(about) + "\n").encode()


def _who(note: bytes) -> str:
    """The holder in words."""
    try:
        about = json.loads(note)
        return "process {process} on host {host} ({command}, since {since})".format(**about)
    except (ValueError, KeyError, TypeError):
        return "another process"


def temporary_folder(prefix: str) -> tuple[Path, Held]:
    """A new temporary folder with a lock that this process holds; folders whose processes have ended are removed.

    Args:
        prefix: beginning of its name; only folders of this user with this prefix and a free lock are removed.
    """
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        _remove_left(left)
    for _ in range(TRIES):
        folder = Path(tempfile.mkdtemp(prefix=prefix))
        with contextlib.suppress(Busy, OSError):  # another process has found it before it was locked, and removes it
            return folder, take(folder / LOCK)
    raise OSError(errno.EAGAIN, "no temporary folder could be locked", tempfile.gettempdir())


def _remove_left(folder: Path) -> None:
    """Remove a temporary folder if its lock is there and free."""
    with contextlib.suppress(Busy, OSError, InputError):
        status = folder.lstat()
        if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and (folder / LOCK).lstat():
            held = take(folder / LOCK)
            shutil.rmtree(folder, ignore_errors=True)
            held.release()
