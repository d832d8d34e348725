"""Compressed files and encodings of text."""

from __future__ import annotations

import bz2
import codecs
import gzip
import io
import lzma
from pathlib import Path

COMPRESSED = (".gz", ".bz2", ".xz")
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
    """Open a file for reading, decompressed by its suffix (.gz, .bz2, .xz)."""
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return gzip.GzipFile(path, "rb")
    if suffix == ".bz2":
        return bz2.BZ2File(path, "rb")
    if suffix == ".xz":
        return lzma.LZMAFile(path, "rb")
    return path.open("rb")


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
