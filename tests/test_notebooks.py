"""Notebooks run from top to bottom."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def execute(path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """All that a notebook prints."""
    for name, value in {"RUNS": str(runs), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parents[1])}}
    NotebookClient(notebook, timeout=1800, kernel_name="python3", resources=resources).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    return "\n".join(str(output.get("text", output.get("data", ""))) for output in outputs)


@pytest.mark.filterwarnings("default")  # of Jupyter's own
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_short(path, tmp_path, monkeypatch):
    said = execute(path, tmp_path, monkeypatch, QUICK="1")
    assert "Traceback" not in said
    if path.stem.startswith("01"):
        assert "Equations of state" in said
        assert (tmp_path / "compare" / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run_in_full(path, tmp_path, monkeypatch):
    assert "Traceback" not in execute(path, tmp_path, monkeypatch)
