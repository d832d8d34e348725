"""What labellers share: the contract, and the outcome of one frame."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ase import Atoms

from finetune.errors import InputError


@dataclass(frozen=True)
class Outcome:
    """What became of one frame.

    Attributes:
        atoms: the frame with its labels; None where it failed.
        reasons: why each attempt failed, in order; not empty beside labels where a fallback succeeded.
        log: what the code printed.
        wall_s: seconds that all attempts took.
    """

    atoms: Atoms | None
    reasons: list[str] = field(default_factory=list)
    log: str = ""
    wall_s: float = 0.0


class Waiting(InputError):
    """Calculations that the user runs are not finished."""


class Method(ABC):
    """How labels are made, as far as they depend on it."""

    @abstractmethod
    def method(self) -> dict[str, Any]:
        """What the labels depend on, as plain data: frames of different methods do not belong into one dataset."""

    @abstractmethod
    def check(self) -> None:
        """Raise `InputError` where the code is not installed or the settings cannot be right, before any frame."""

    def method_hash(self, code: str | None = None) -> str:
        """An `m` (digits alone would be read back as a number) and eleven digits of the SHA-256 of the method.

        Args:
            code: the code and its version, in place of those that are installed.
        """
        method = self.method()
        if code is not None and "code" in method:
            method["code"] = code
        return "m" + hashlib.sha256(json.dumps(method, sort_keys=True).encode()).hexdigest()[:11]


class Labeller(Method):
    """Gives structures energy (eV), forces (eV/Å) and stress (eV/Å³); pickles, so that it can run in any process."""

    @abstractmethod
    def label(self, atoms: Atoms) -> Outcome:
        """Label one frame; whatever the code raises becomes a reason, not an exception."""

    def warn_unseen(self, numbers: Iterable[int]) -> None:
        """Warn of elements, by atomic number, that no training frame of a model that labels contains."""
        return


class Folders(Method):
    """Writes a folder of input files for each frame, which the user runs, and reads back those that are finished."""

    @abstractmethod
    def write(self, atoms: Atoms, folder: Path) -> None:
        """Write the input files of one frame."""

    @abstractmethod
    def collect(self, atoms: Atoms, folder: Path) -> Outcome | None:
        """The labels of a frame or why there are none; None where the calculation has not been run."""
