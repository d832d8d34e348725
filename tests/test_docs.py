"""The documentation builds without a warning and without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ase.build import bulk

from finetune.potential import Potential

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-P", "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(target)]
    # Nothing answers on port 9 (discard): a page or plugin that wants the network fails.
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, **offline}, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def test_every_page_of_the_navigation_is_built(site: Path) -> None:
    pages = re.findall(r"([\w/-]+)\.md", yaml.dump(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert pages
    assert [page for page in pages if not (site / f"{page}.html").is_file()] == []


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|link)\b[^>]*(?:src|href)=[\"']?(?:https?:)?//[^\"' >]+")
    found = {page.name: match[0] for page in site.rglob("*.html") if (match := loaded.search(page.read_text()))}
    assert found == {}


def test_reference_shows_signatures_and_units(site: Path) -> None:
    text = re.sub(r"<[^>]+>", "", (site / "reference/potential.html").read_text())
    assert "eV/Å" in text
    assert "descriptors" in text


def test_the_example_potential_works_as_printed(rng: np.random.Generator) -> None:
    """Forces of the page's Morse potential are minus the numerical gradient of its energy."""
    [block] = re.findall(r"```python\n(.*?)```", (ROOT / "docs/how-to/new-potential.md").read_text(), flags=re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(block, "new-potential.md", "exec"), names)
    potential: Potential = names["Morse"].tiny().eval()
    atoms = bulk("Li", cubic=True) * (2, 1, 1)
    atoms.rattle(0.1, rng=rng)

    def energy(shift: float) -> torch.Tensor:
        moved = atoms.copy()
        moved.positions[0, 0] += shift
        return potential(potential.collate([potential.graph(moved)])).energy[0]

    predicted = potential(potential.collate([potential.graph(atoms)]))
    assert abs(predicted.forces[0, 0]) > 1e-3
    torch.testing.assert_close(predicted.forces[0, 0], (energy(-1e-4) - energy(1e-4)) / 2e-4, rtol=1e-5, atol=1e-7)
    per_atom = predicted.energies
    assert per_atom is not None
    features = potential.descriptors(potential.collate([potential.graph(atoms)]))
    torch.testing.assert_close(per_atom, potential.get_parameter("depth").detach() * features[:, 0].detach())
