"""Frames of extended XYZ files, each located by its lines."""

from __future__ import annotations

import io
import itertools
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ase.io
from ase import Atoms
from ase.data import atomic_numbers
from ase.io.extxyz import key_val_str_to_dict

from finetune.data.compression import open_text
from finetune.errors import InputError, likely_symbol

FORTRAN = re.compile(r"(?<![\w.])([+-]?(?:\d+\.\d*|\.\d+))[dD]([+-]?\d+)(?!\w)")  # 1.0D+00
VOIGT = re.compile(r"""(?<![^\s"'])(stress|virial)\s*=\s*(["'\[{]\s*(?:[^\s"'\]},]+[\s,]+){5}[^\s"'\]},]+\s*["'\]}])""")
EMPTY = re.compile(  # a key whose value is missing; texts in quotes are passed over
    r"""(?<!\S)(?P<key>[^\s="'{\[]+)\s*=(?:\s*(?:"\s*"|'\s*'|\[\s*\]|\{\s*\})(?=\s|$)|(?=\s*$|\s+[^\s="'{\[]+\s*=))"""
    r"""|"[^"]*"|'[^']*'|\{[^}]*\}|\[[^\]]*\]"""
)
PROPERTIES = re.compile(r"""Properties\s*=\s*["']?([^\s"']+)""")
DEFAULT = "species:S:1:pos:R:3"
MOST_ATOMS = 10**12  # in a frame; a larger number is damage
_Block = tuple[list[str], int]  # lines of a frame, and the number of the first one
SYMBOLS = ("species", "symbols", "element")  # columns that hold chemical symbols


def read_xyz(path: Path, index: int | None = None) -> Iterator[tuple[int, Atoms]]:
    """Yield the frames of an extended XYZ file with their numbers; blank lines between frames are skipped.

    Numbers may have Fortran's exponents (`1.0D+00`), the text the encodings of `open_text`.

    Args:
        path: the file, compressed or not.
        index: of a single frame, from the end where negative; None for all. A frame that is missing yields nothing.

    Raises:
        InputError: a line that cannot be read, with its number, or an element that is not known.
    """
    if index is None:
        chosen: Iterable[tuple[int, _Block]] = enumerate(_blocks(path))
    elif index >= 0:
        chosen = itertools.islice(enumerate(_blocks(path)), index, index + 1)
    else:
        last = deque(enumerate(_blocks(path)), maxlen=-index)
        chosen = [last[0]] if len(last) == -index else []
    for frame, (rows, number) in chosen:
        yield frame, _frame(rows, number, f"{path}, frame {frame}")


def _blocks(path: Path) -> Iterator[_Block]:
    """The lines of each frame, and the number of the first one."""
    with open_text(path) as stream:
        numbered = enumerate(_lines(stream, path), start=1)
        frame, held = 0, next(numbered, None)
        while held is not None:
            number, line = held
            if not line.strip():
                held = next(numbered, None)
                continue
            where = f"{path}, frame {frame}"
            rows = [line, *itertools.islice((text for _, text in numbered), _count(line, number, where) + 1)]
            held = next(numbered, None)
            while held is not None and held[1].lstrip().startswith("VEC"):  # lattice vectors below the atoms
                rows.append(held[1])
                held = next(numbered, None)
            yield rows, number
            frame += 1


def _lines(stream: io.TextIOWrapper, path: Path) -> Iterator[str]:
    """The lines of a text.

    Raises:
        InputError: bytes that are no text of this encoding.
    """
    try:
        yield from stream
    except UnicodeError as error:
        raise InputError(
            f"cannot read {path}: got bytes that are not {stream.encoding} ({error}), expected text. Save it as UTF-8"
        ) from error


def _count(line: str, number: int, where: str) -> int:
    """The number of atoms that begins a frame."""
    try:
        count = int(line)
    except ValueError:
        count = -1
    if not 0 <= count < MOST_ATOMS:
        raise InputError(
            f"cannot read {where}: line {number} is {line.strip()!r:.60}, expected a number of atoms. Check the number "
            "of atoms and of lines of the frame before it"
        )
    return count


def _frame(rows: Sequence[str], number: int, where: str) -> Atoms:
    """The structure of the lines of a frame, of which the first has this number."""
    count = int(rows[0])
    if len(rows) < 2 + count:
        raise InputError(f"cannot read {where}: it ends after {max(len(rows) - 2, 0)} of {count} atoms. Is it cut off?")
    rows = [FORTRAN.sub(r"\1E\2", row) if "D" in row or "d" in row else row for row in rows]
    found = PROPERTIES.search(rows[1])
    columns = _columns(found.group(1) if found else DEFAULT)
    if not count:
        return Atoms()
    try:
        read = ase.io.read(io.StringIO("".join(rows)), index=0, format="extxyz", properties_parser=_parse)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RuntimeError, OSError) as error:
        _check_rows(rows[2 : 2 + count], columns, number + 2, where)
        raise InputError(f"cannot read {where} (from line {number}): {error or type(error).__name__}") from error
    assert isinstance(read, Atoms)
    if not read.numbers.all():
        _check_rows(rows[2 : 2 + count], columns, number + 2, where)
    return read


def _parse(comment: str) -> dict[str, Any]:
    """Keys and values of a comment line; `stress` and `virial` may have six numbers too, which ASE refuses."""
    empty: list[str] = []

    def without(found: re.Match[str]) -> str:
        """Nothing for a key without a value, which ASE would give the next key as its value."""
        if found["key"] is None:
            return found[0]
        empty.append(found["key"])
        return ""

    comment = EMPTY.sub(without, comment)
    voigt = VOIGT.sub(r"\1_voigt=\2", comment)
    info: dict[str, Any] = {**key_val_str_to_dict(voigt), **dict.fromkeys(empty, "")}
    for key in ("stress", "virial") if voigt != comment else ():
        if f"{key}_voigt" in info:
            info[key] = info.pop(f"{key}_voigt")
    return info


def _columns(properties: str) -> list[tuple[str, str]]:
    """Name and type (S, R, I, L) of each column of the lines of atoms; empty where they cannot be understood."""
    words = properties.split(":")
    names, kinds, counts = words[::3], words[1::3], words[2::3]
    if len(words) % 3 or not all(text.isdigit() for text in counts):
        return []
    return [(name, kind) for name, kind, text in zip(names, kinds, counts, strict=True) for _ in range(int(text))]


def _check_rows(rows: Sequence[str], columns: Sequence[tuple[str, str]], first: int, where: str) -> None:
    """Name the first line of an atom that has too few columns, a symbol that is no element, or a word for a number."""
    symbols = next((k for k, (name, kind) in enumerate(columns) if name in SYMBOLS and kind == "S"), None)
    for number, row in enumerate(rows, start=first):
        words = row.split()
        if len(words) < len(columns):
            got = f"{len(words)} columns" if words else "a blank line"
            raise InputError(
                f"cannot read {where}: line {number} has {got}, expected {len(columns)} columns of an atom. Check the "
                "number of atoms and `Properties`"
            )
        if symbols is not None:
            check_symbol(words[symbols], where)
        for word, (name, kind) in zip(words, columns, strict=False):
            if kind in "RI" and not _is_number(word):
                raise InputError(f"cannot read {where}: line {number} has {name} {word!r:.30}, expected a number")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True


def check_symbol(symbol: str, where: str) -> None:
    """Check that a text is the symbol of a chemical element.

    Args:
        symbol: such as `Li`.
        where: file and frame, for the message.

    Raises:
        InputError: it is not, with a remedy.
    """
    name = symbol.capitalize()
    if name in atomic_numbers and name != "X":
        return
    letters = re.sub(r"[^A-Za-z].*", "", symbol).capitalize()
    if symbol.isdigit():
        remedy = "Types of LAMMPS and atomic numbers are no symbols: write symbols, or name the column Z:I:1"
    elif name in ("D", "T"):
        remedy = "Write H for this isotope, with its mass in a column masses:R:1 where dynamics need it"
    elif name in ("X", "Vac", "Va", "Du"):
        remedy = "A vacancy or dummy is no atom: leave it out"
    elif letters in atomic_numbers and letters != "X":
        remedy = f"Write {letters}"
    else:
        near = likely_symbol(symbol)
        remedy = "Write chemical symbols" + (f": {near}" if near else "")
    raise InputError(f"{where}: element {symbol} is not known. {remedy}")
