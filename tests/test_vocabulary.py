"""The pages use the field's words: phrases that newcomers stumbled over do not come back."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md", "data/campaign/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
AVOIDED = (
    r"what is said|\bsays\b|\btells\b|\btold\b|\bheard\b|listening",  # returns, prints, reports; captured, hook
    r"what comes out|what rebuilds|what is missing of",  # output, arguments to rebuild, remaining steps
    r"there is none|nothing to look at|is no number",  # missing, not available, no finite value
    r"that mean nothing",  # validate settings
    r"few and telling",  # a few informative structures
    r"these very frames",  # fitted to the evaluated frames
    r"ahead of chance|\bit pays\b",  # better than random selection; worth the cost
    r"\bstory\b|\bwish\b",  # provenance, stop request
    r"\bjudg(e|es|ed|ing)\b",  # validation or test frames; evaluated
    r"somebody's|other people's|nobody's",  # third-party, external
    r"give(n)? up\b",  # a calculation that you abandon
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_a_page_uses_the_words_of_the_field(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(), flags=re.DOTALL)
    found = [match.group() for pattern in AVOIDED for match in re.finditer(pattern, text, re.IGNORECASE)]
    assert found == []
