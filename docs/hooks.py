"""Pages that are made when the documentation is built: the report of the example comparison, from its figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from finetune.comparison.report import page

FIGURES = Path(__file__).parent / "figures" / "compare.json"


def on_files(files: Files, config: Any) -> Files:
    """Add the report, one page that needs nothing else."""
    files.append(File.generated(config, "examples/compare.html", content=page(json.loads(FIGURES.read_text()))))
    return files
