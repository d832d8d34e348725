"""Mistakes of the user, told in words: what, what was got, and the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used; the message says what, what was got and the remedy."""


class UnlabelledError(InputError):
    """No frame has a label, where labels are needed."""


def unknown(kind: str, got: str, known: Iterable[str]) -> InputError:
    """An `InputError` for a name that does not exist, offering the nearest known one."""
    known = sorted(known)
    near = difflib.get_close_matches(got, known, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return InputError(f"unknown {kind} {got!r}{hint} Known: {', '.join(known) or 'none'}")
