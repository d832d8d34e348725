"""Mutated files of every format are read or refused in words: the short form of scripts/fuzz.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.errors import InputError
from finetune.sampling.core import atoms_of

FUZZ = Path(__file__).parents[2] / "scripts" / "fuzz.py"


def test_mutated_files_give_no_traceback_no_hang_and_no_silent_change() -> None:
    """In a process of its own, since it limits its memory."""
    command = [sys.executable, str(FUZZ), "--count", "126", "--seed", "3"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=FUZZ.parents[1], timeout=900)
    assert found.returncode == 0, found.stdout + found.stderr
    assert found.stdout.splitlines()[-1].split()[0] == "all"


def test_a_config_that_is_no_text_is_refused(tmp_path: Path, capsys) -> None:
    path = tmp_path / "md.yaml"
    path.write_bytes(b"calculator: \xf4\xf4\n")
    assert main(["md", "-c", str(path)]) == 1
    assert "not UTF-8 text" in capsys.readouterr().err


def test_a_formula_of_all_atoms_is_refused() -> None:
    with pytest.raises(InputError, match="no chemical formula"):
        atoms_of("Li7P99999999999999S11")
