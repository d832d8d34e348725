"""Mistakes of the user, told in words: what, what was got, and the remedy."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

from ase.data import atomic_names, atomic_numbers

NAMES = {name: z for z, name in enumerate(atomic_names) if z and name} | {
    "Aluminum": 13,
    "Cesium": 55,
    "Sulphur": 16,
    "Wolfram": 74,
    "Natrium": 11,
    "Kalium": 19,
    "Ferrum": 26,
    "Cuprum": 29,
    "Argentum": 47,
    "Aurum": 79,
    "Plumbum": 82,
    "Stannum": 50,
    "Stibium": 51,
    "Hydrargyrum": 80,
}


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what, what was got and the remedy."""


class UnlabelledError(InputError):
    """No frame has a label, where labels are needed."""


def likely_symbol(text: str) -> str | None:
    """Chemical symbol that a text seems to mean: a name (`Lithium`), or a symbol with more letters (`LiA`)."""
    word = re.sub(r"[^A-Za-z].*", "", text).capitalize()
    near = difflib.get_close_matches(word, NAMES, n=1, cutoff=0.75)
    if near:
        return next(symbol for symbol, z in atomic_numbers.items() if z == NAMES[near[0]])
    known = [word[:count] for count in (2, 1) if len(word) <= 3 and atomic_numbers.get(word[:count])]
    return known[0] if known else None


def unknown_element(symbol: str) -> InputError:
    """An `InputError` for a text that is no chemical symbol, with the likely one."""
    near = likely_symbol(symbol)
    return InputError(
        f"element {symbol!r} is not known. " + (f"Write {near}" if near else "Write a chemical symbol, such as Li")
    )


def message_inside(error: BaseException) -> str | None:
    """The message of the `InputError` that an error of a parser wraps; None where there is none."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, InputError):
            return str(cause)
        cause = cause.__cause__ or cause.__context__
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line.removeprefix("- ") for line in lines if line.startswith("- ") and not line.startswith("- Expected")]
    return reasons[-1] if reasons and lines[0].startswith("Does not validate") else None  # of a union of types


def unknown(kind: str, got: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, offering the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"unknown {kind} {got!r}{hint} Known: {', '.join(known) or 'none'}")
