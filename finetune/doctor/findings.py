"""A finding: what was checked, the verdict, what was seen in words, and the remedy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from finetune.data.frames import Frame

Verdict = Literal["good", "warning", "fault", "skipped"]
SHOWN = 3  # frames, files or groups that are named one by one


@dataclass(frozen=True)
class Finding:
    """What one check has to say.

    Attributes:
        check: what was looked at.
        verdict: `good`; `warning`: look at it, training may go on; `fault`: training should not go on; `skipped`: these
            data or settings cannot tell.
        words: what was seen, with numbers.
        remedy: what to do about it; empty where there is nothing to do.
    """

    check: str
    verdict: Verdict
    words: str
    remedy: str = ""


def some(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


def short(source: str) -> str:
    """The file without its folders."""
    return Path(source).name


def by_source(frames: Sequence[Frame]) -> dict[str, list[int]]:
    """Numbers of the frames of each file, in the order of the files."""
    found: dict[str, list[int]] = {}
    for i, frame in enumerate(frames):
        found.setdefault(frame.source, []).append(i)
    return found
