"""Harmless payloads: each creates a file, which must not exist after the command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ..structures import ROOT


class Marking:
    """A pickle that creates a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


def module(path: Path, mark: Path, body: str = "") -> None:
    """Write a module that creates a file when it is imported."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"open({str(mark)!r}, 'w').close()\n{body}")


def finetune(*arguments: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`finetune ARGUMENTS` in a process of its own, in a directory."""
    script = Path(sys.executable).with_name("finetune")
    return subprocess.run(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        timeout=300,
        check=False,
    )
