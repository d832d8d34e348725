"""Files that grow while dynamics run, and can be cut back to where a checkpoint was taken."""

from __future__ import annotations

import contextlib
import errno
import io
import os
from collections.abc import Sequence
from pathlib import Path

import ase.io
from ase import Atoms
from ase.io.trajectory import Trajectory

from finetune.errors import InputError
from finetune.files import check_no_link, growing_file, sync, whole

FORMATS = (".extxyz", ".xyz", ".traj")
TAKEN = ("final", "before", "after")  # names of other files in the directory of a run
KNOWN_ARRAYS = ("numbers", "positions", "momenta", "masses", "tags", "initial_charges", "initial_magmoms")


class Appended:
    """A text file to which whole pieces are added; a piece that does not fit on the disk is taken back.

    Args:
        path: the file.
        size: what is kept of it, in bytes.
    """

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        self._stream = growing_file(path, size)
        self.size = size

    def add(self, text: str) -> None:
        """Add a piece.

        Raises:
            OSError: it does not fit, and the file ends with the piece before; or the file was removed.
        """
        check_there(self.path, self._stream.fileno())
        data = memoryview(text.encode())
        try:
            while data:
                data = data[self._stream.write(data) :]
        except OSError:
            self._stream.truncate(self.size)
            self._stream.seek(self.size)
            raise
        self.size = self._stream.tell()

    def sync(self) -> int:
        """Put everything on the disk; the size in bytes."""
        check_there(self.path, self._stream.fileno())
        os.fsync(self._stream.fileno())
        return self.size

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


class ExtendedXYZ(Appended):
    """A trajectory in extended XYZ; its size is in bytes."""

    def write(self, frame: Atoms) -> None:
        """Add a frame."""
        text = io.StringIO()
        ase.io.write(text, frame, format="extxyz")
        self.add(text.getvalue())


class Traj:
    """A trajectory in ASE's own format; its size is in frames. It has no room for further arrays: they go to `info`."""

    def __init__(self, path: Path, size: int = 0) -> None:
        self.path = path
        check_no_link(path)
        if size == 0:
            path.unlink(missing_ok=True)  # perhaps without so much as a header
        if path.exists():
            with Trajectory(path) as old:
                if len(old) < size:
                    raise InputError(f"{path} is shorter than when the checkpoint was written; begin anew")
                if len(old) > size or path.stat().st_nlink > 1:  # what has another name stays as it is
                    with whole(path) as partial, Trajectory(partial, "w") as kept:
                        for k in range(size):
                            kept.write(old[k])
        self.size, self._broken = size, False
        self._trajectory = Trajectory(path, "a")
        self._status = path.stat()

    def write(self, frame: Atoms) -> None:
        """Add a frame, whose `info` may grow by this."""
        check_there(self.path, self._status)
        more = {name: values for name, values in frame.arrays.items() if name not in KNOWN_ARRAYS}
        frame.info |= more
        try:
            self._trajectory.write(frame)
        except OSError:
            self._broken = True
            raise
        self.size += 1

    def sync(self) -> int:
        """Put everything on the disk; the number of frames."""
        check_there(self.path, self._status)
        sync(self.path)
        return self.size

    def close(self) -> None:
        """Close the file; half a frame is left out of its table."""
        if self._broken:
            self._trajectory.backend.data.clear()
        with contextlib.suppress(OSError):
            self._trajectory.close()


def check_there(path: Path, opened: int | os.stat_result) -> None:
    """Raise `OSError` where a name no longer leads to the open file, which is written to in vain then."""
    status = os.fstat(opened) if isinstance(opened, int) else opened
    if not os.path.samestat(status, path.stat()):
        raise FileNotFoundError(errno.ENOENT, "its files were removed or replaced by others while it ran", str(path))


def trajectory(path: Path, size: int = 0) -> ExtendedXYZ | Traj:
    """The trajectory of a name, cut back to a size; the suffix says which format."""
    return Traj(path, size) if path.suffix == ".traj" else ExtendedXYZ(path, size)


def check_name(name: str) -> None:
    """Raise `InputError` where the suffix names no known format."""
    if Path(name).suffix not in FORMATS:
        raise InputError(f"a trajectory is called {name}; its suffix is {', '.join(FORMATS[:-1])} or {FORMATS[-1]}")
    if Path(name).name != name or Path(name).stem in TAKEN:
        raise InputError(f"a trajectory is called {name}; give a plain file name that is not {', '.join(TAKEN)}")


def row(values: Sequence[float | int | str | None]) -> str:
    """A line of comma-separated values; nothing where there is none."""
    return (
        ",".join(
            "" if value is None else f"{value:.8g}" if isinstance(value, float) else str(value) for value in values
        )
        + "\n"
    )
