"""A campaign whose calculations the user runs: folders of input out, labels in."""

from __future__ import annotations

from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms

from finetune.files import write_frames
from finetune.labelling import Folders, Outcome
from finetune.labelling.core import Waiting

from .campaigns import campaign, labelled, learn, write_config, write_files
from .commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Frames to begin with, to judge by, and starts."""
    return write_files(tmp_path_factory.mktemp("files"))


def frames_of(path: Path) -> list[Atoms]:
    return list(ase.io.iread(path, ":", format="extxyz"))


class ByHand(Folders):
    """Input that the test runs itself, as a user would run VASP."""

    def method(self) -> dict[str, str]:
        return {"by": "hand"}

    def check(self) -> None:
        """Nothing can be wrong."""

    def write(self, atoms: Atoms, folder: Path) -> None:
        folder.mkdir(parents=True)
        write_frames(folder / "frame.extxyz", [atoms])

    def collect(self, atoms: Atoms, folder: Path) -> Outcome | None:
        if not (folder / "done.extxyz").exists():
            return None
        if not (folder / "done.extxyz").read_text():
            return Outcome(None, ["done.extxyz cannot be read; is the calculation finished?"])
        return Outcome(ase.io.read(folder / "done.extxyz"))


def test_a_campaign_waits_for_calculations_that_the_user_runs(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, labeller=ByHand())
    inputs = tmp_path / "run/labels.inputs"
    for generation in (1, 2):
        with pytest.raises(
            Waiting, match=rf"generation {generation} waits for 3 of 3 calculations in .*labels\.inputs"
        ):
            learn(tmp_path / "run", given)
        folders = [folder for folder in sorted(inputs.iterdir()) if not (folder / "done.extxyz").exists()]
        folders = [folder for folder in folders if folder.is_dir() and not (folder / "GIVEN_UP").exists()]
        assert len(folders) == 3
        for folder in folders[:2]:
            ase.io.write(folder / "done.extxyz", labelled(ase.io.read(folder / "frame.extxyz")), format="extxyz")
        with pytest.raises(Waiting, match=r"waits for 1 of 3 .* named GIVEN_UP$"):
            learn(tmp_path / "run", given)
        (folders[2] / "done.extxyz").touch()  # half written, as by a code that runs
        with pytest.raises(Waiting, match=r"(?s)waits for 1 of 3 .* Not accepted:.*is the calculation finished"):
            learn(tmp_path / "run", given)
        (folders[2] / "done.extxyz").unlink()
        (folders[2] / "GIVEN_UP").touch()
    learning, reason, told = learn(tmp_path / "run", given)
    assert reason == "2 generations were wanted"
    assert any("it has been given up" in line for line in told)
    for n in (1, 2):
        for answer in frames_of(learning.place(n) / "labelled.extxyz"):
            np.testing.assert_allclose(answer.arrays["REF_forces"], labelled(answer).arrays["REF_forces"], atol=1e-6)
        assert len(frames_of(learning.place(n) / "labelled.extxyz")) == 2


def test_the_command_ends_with_status_3_where_it_waits(
    files: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = yaml.safe_load(write_config(tmp_path / "learn.yaml", files).read_text())
    config |= {"labeller": {"class_path": "finetune.labelling.VaspFolders"}, "control": None}
    (tmp_path / "learn.yaml").write_text(yaml.safe_dump(config))
    assert command("learn", "-c", tmp_path / "learn.yaml", "--directory", tmp_path / "run") == 3
    said = capsys.readouterr()
    assert "waits for 3 of 3 calculations" in said.out
    assert "error" not in said.err.lower()
    assert len(list((tmp_path / "run/labels.inputs").glob("*/POSCAR"))) == 3
