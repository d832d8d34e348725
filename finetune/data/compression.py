"""Compressed files and encodings of text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from pathlib import Path
from typing import Any

from finetune.errors import InputError

COMPRESSED = (".gz", ".bz2", ".xz")
LARGE = 2**28  # bytes; decompressed files up to this size are read whatever they were
RATIO = 200  # decompressed over compressed size beyond which a larger file is not text of structures; that has 3 to 20
MARKS = (  # byte-order marks; those of UTF-32 begin like those of UTF-16
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def plain_name(path: Path) -> str:
    """The name of a file without the suffix of its compression."""
    return path.name[: -len(path.suffix)] if path.suffix.lower() in COMPRESSED else path.name


def open_bytes(path: Path) -> io.BufferedIOBase:
    """Open a file for reading, decompressed by its suffix (.gz, .bz2, .xz).

    Reading raises `InputError` where a file grows without end when it is decompressed.
    """
    kinds = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}
    kind = kinds.get(path.suffix.lower())
    return path.open("rb") if kind is None else io.BufferedReader(_Limited(kind(path, "rb"), path))


class _Limited(io.RawIOBase):
    """A decompressed stream that ends with an error where it is larger than any such file can be."""

    def __init__(self, stream: io.BufferedIOBase, path: Path) -> None:
        self.stream, self.path = stream, path
        self.limit = max(LARGE, RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        found = self.stream.read(len(buffer))
        buffer[: len(found)] = found
        if self.stream.tell() > self.limit:
            packed, unpacked = self.path.stat().st_size / 2**20, self.limit / 2**20
            raise InputError(
                f"{self.path}: got more than {unpacked:.0f} MiB from {packed:.3g} MiB, expected a compressed file of "
                "structures. If it is one, decompress it first."
            )
        return len(found)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.stream.seek(offset, whence)

    def tell(self) -> int:
        return self.stream.tell()

    def close(self) -> None:
        self.stream.close()
        super().close()


def open_text(path: Path) -> io.TextIOWrapper:
    """Open a text file for reading, decompressed; UTF-8, or UTF-16 and UTF-32 by their byte-order mark."""
    with open_bytes(path) as stream:
        head = stream.read(4)
    encoding = next((name for mark, name in MARKS if head.startswith(mark)), None)
    if encoding is None and len(head) == 4 and head[1] == head[3] == 0 and head[0] and head[2]:
        encoding = "utf-16-le"
    elif encoding is None and len(head) == 4 and head[0] == head[2] == 0 and head[1] and head[3]:
        encoding = "utf-16-be"
    return io.TextIOWrapper(io.BufferedReader(open_bytes(path)), encoding=encoding or "utf-8")
