"""Cleaning up removes what this package has made and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from finetune.files import sweep
from finetune.labelling import Processes

from ..campaigns import write_config, write_files
from ..commands import THEIR_WARNINGS, command

pytestmark = THEIR_WARNINGS

OWNER = """
import sys
from finetune.labelling import Processes
if __name__ == "__main__":
    print(Processes(1).folder, flush=True)
    sys.stdin.read()
"""


def test_a_campaign_is_not_begun_in_a_directory_that_holds_other_files(tmp_path, capsys):
    used = tmp_path / "used"
    (used / "below").mkdir(parents=True)
    for name in ("download.partial", "below/thesis.partial", "notes.txt"):
        (used / name).write_text("the user's")
    before = sorted(path.relative_to(used) for path in used.rglob("*"))
    config = write_config(tmp_path / "learn.yaml", write_files(tmp_path))
    assert command("learn", "-c", config, "--directory", used) == 1
    errors = capsys.readouterr().err
    assert "used: got a directory that holds other files (below, download.partial, notes.txt)" in errors
    assert "expected a new one or one of a campaign. Choose a new directory." in errors
    assert sorted(path.relative_to(used) for path in used.rglob("*")) == before


def test_a_campaign_leaves_files_of_the_user_in_its_own_directory(tmp_path):
    config = write_config(tmp_path / "learn.yaml", write_files(tmp_path))
    assert command("learn", "-c", config, "--directory", tmp_path / "run") == 0
    (tmp_path / "run/movie.partial").write_text("the user's")
    (tmp_path / "run/settings.json.0123456789ab.partial").write_text("half")
    assert command("learn", "-c", config, "--directory", tmp_path / "run") == 0
    assert (tmp_path / "run/movie.partial").read_text() == "the user's"
    assert not (tmp_path / "run/settings.json.0123456789ab.partial").exists()


def test_sweeping_does_not_follow_links_out_of_the_directory(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home/a.0123456789ab.partial").write_text("elsewhere")
    (tmp_path / "run").mkdir()
    (tmp_path / "run/link").symlink_to(tmp_path / "home")
    (tmp_path / "run/b.0123456789ab.partial").symlink_to(tmp_path / "home")
    sweep(tmp_path / "run")
    assert (tmp_path / "home/a.0123456789ab.partial").read_text() == "elsewhere"
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["link"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory of temporary files that two containers share."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return place


def test_a_temporary_folder_of_a_process_that_is_not_in_our_process_table_stays(temporary):
    foreign = temporary / "finetune-label-999999999"  # of another container, by an earlier version
    foreign.mkdir()
    (foreign / "WAVECAR").write_text("hours of computing")
    with Processes(1) as executor:
        assert executor.submit(os.getpid).result(120) != os.getpid()
    assert (foreign / "WAVECAR").read_text() == "hours of computing"
    assert list(temporary.iterdir()) == [foreign]


def test_a_temporary_folder_stays_while_its_process_lives_and_is_removed_after_it_was_killed(temporary, tmp_path):
    (tmp_path / "owner.py").write_text(OWNER)
    owner = subprocess.Popen(
        [sys.executable, str(tmp_path / "owner.py")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        folder = Path(owner.stdout.readline().strip())
        (folder / "label").write_text("in progress")
        Processes(1).shutdown()
        assert (folder / "label").read_text() == "in progress"
        os.kill(owner.pid, signal.SIGKILL)
        owner.wait()
        Processes(1).shutdown()
        assert not folder.exists()
    finally:
        owner.kill()
        owner.communicate()
