"""Mistakes of the user, told in words: what, what was got, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what, what was got and the remedy."""


class UnlabelledError(InputError):
    """No frame has a label, where labels are needed."""


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
