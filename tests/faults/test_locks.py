"""Two processes never write into one directory; a lock of a process that has ended is taken over."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import ase.io
import pytest
import yaml

from ..campaigns import write_config, write_files
from ..commands import THEIR_WARNINGS, command, fit_arguments, write_parts
from ..structures import ROOT

pytestmark = THEIR_WARNINGS

HOLDER = """
import sys
from pathlib import Path
from finetune.locks import locked
{first}
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""
NO_FLOCK = """
import errno, fcntl
def flock(*_):
    raise OSError(errno.ENOSYS, "Function not implemented")
fcntl.flock = flock
"""


@contextlib.contextmanager
def holder(directory: Path, first: str = "") -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of a directory."""
    script = HOLDER.format(first=first)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.kill()
        process.communicate()


def md_config(base: Path, directory: Path) -> list[str | Path]:
    files = write_files(base)
    ensemble = {"class_path": "finetune.md.NVE", "init_args": {"timestep_fs": 2.0}}
    content = {
        "structure": files["starts"],
        "calculator": {"class_path": "ase.calculators.emt.EMT"},
        "stages": [{"ensemble": ensemble, "ps": 0.01}],
        "output": {"start_K": 300.0},
    }
    (base / "md.yaml").write_text(yaml.safe_dump(content))
    return ["md", "-c", base / "md.yaml", "--directory", directory]


def label_config(base: Path, output: Path) -> list[str | Path]:
    files = write_files(base)
    content = {
        "labeller": {
            "class_path": "finetune.labelling.Calculated",
            "init_args": {"calculator": "ase.calculators.emt.EMT"},
        },
        "executor": {"class_path": "concurrent.futures.ThreadPoolExecutor", "init_args": {"max_workers": 1}},
    }
    (base / "label.yaml").write_text(yaml.safe_dump(content))
    return ["label", files["starts"], "-c", base / "label.yaml", "--output", output]


def sample_config(base: Path, output: Path) -> list[str | Path]:
    samplers = [{"class_path": "finetune.sampling.Files", "init_args": {"folder": str(base), "files": ["a.cif"]}}]
    content = {"recipes": [{"family": "crystal", "frames": 1, "samplers": samplers}]}
    (base / "a.cif").write_text((ROOT / "data/structures/materials_project/Li_mp-135-r2SCAN.cif").read_text())
    (base / "sample.yaml").write_text(yaml.safe_dump(content))
    return ["sample", "-c", base / "sample.yaml", "--output", output]


def learn_config(base: Path, directory: Path) -> list[str | Path]:
    return ["learn", "-c", write_config(base / "learn.yaml", write_files(base)), "--directory", directory]


def fit_config(base: Path, directory: Path) -> list[str | Path]:
    return fit_arguments(write_parts(base), directory, "--trainer.max_epochs", "1", "--data.test", "null")


COMMANDS = {
    "fit": (fit_config, "run", "run"),
    "md": (md_config, "run", "run"),
    "learn": (learn_config, "run", "run"),
    "label": (label_config, "out.extxyz", "out.extxyz.labels"),
    "sample": (sample_config, "out.extxyz", "out.extxyz.parts"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_does_not_write_where_another_process_does_and_names_it(tmp_path, capfd, name):
    arguments, output, place = COMMANDS[name]
    with holder(tmp_path / place) as other:
        assert command(*arguments(tmp_path, tmp_path / output)) == 1
        assert [path.name for path in (tmp_path / place).iterdir()] == ["lock"]
    errors = capfd.readouterr().err
    assert f"{place}: got a directory that process {other.pid} on host {socket.gethostname()}" in errors
    assert "expected one that no other process uses. Wait for it, or choose another" in errors


@pytest.mark.parametrize("name", ["md", "label", "sample"])
def test_the_lock_of_a_killed_process_is_taken_over(tmp_path, name):
    arguments, output, place = COMMANDS[name]
    with holder(tmp_path / place) as other:
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert command(*arguments(tmp_path, tmp_path / output)) == 0


def test_a_second_process_may_go_on_when_the_first_has_finished(tmp_path):
    assert command(*md_config(tmp_path, tmp_path / "run")) == 0
    before = (tmp_path / "run/log.csv").read_bytes()
    assert command(*md_config(tmp_path, tmp_path / "run")) == 0
    assert (tmp_path / "run/log.csv").read_bytes() == before
    assert (tmp_path / "run/lock").read_bytes() == b""  # nobody holds it


def test_a_command_that_fails_leaves_no_directory_behind(tmp_path, capfd):
    missing = md_config(tmp_path, tmp_path / "run")
    Path(write_files(tmp_path)["starts"]).write_text("")
    assert command(*missing) == 1
    wrong = fit_arguments(write_parts(tmp_path), tmp_path / "fit", "--data.train", tmp_path / "nothing.extxyz")
    assert command(*wrong) == 1
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "fit").exists()


@pytest.fixture
def no_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without flock, as some network file systems are: the kernel refuses the call."""

    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refused)


def test_without_flock_a_file_takes_its_place_and_a_line_says_so(tmp_path, no_flock, capfd):
    assert command(*md_config(tmp_path, tmp_path / "run")) == 0
    assert "this file system has no locks; lock.soft takes their place" in capfd.readouterr().err
    assert not (tmp_path / "run/lock.soft").exists()
    with holder(tmp_path / "run", NO_FLOCK) as other:
        assert command(*md_config(tmp_path, tmp_path / "run")) == 1
        assert f"process {other.pid} on host {socket.gethostname()}" in capfd.readouterr().err
        os.kill(other.pid, signal.SIGKILL)
        other.wait()
        assert (tmp_path / "run/lock.soft").exists()
        assert command(*md_config(tmp_path, tmp_path / "run")) == 0  # on the same host, and its process is gone


def test_without_flock_the_lock_of_another_host_is_not_taken_over(tmp_path, no_flock, capfd):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/lock.soft").write_text("999999999\nanother-host\n")
    (tmp_path / "run/lock").write_text(
        '{"process": 999999999, "host": "another-host", "command": "finetune md", "since": "now"}'
    )
    assert command(*md_config(tmp_path, tmp_path / "run")) == 1
    assert "process 999999999 on host another-host (finetune md, since now)" in capfd.readouterr().err
    assert (tmp_path / "run/lock.soft").exists()


def test_processes_in_one_directory_one_after_the_other_leave_all_labels(tmp_path):
    output = tmp_path / "out.extxyz"
    script = Path(sys.executable).with_name("finetune")
    arguments = [sys.executable, str(script), *map(str, label_config(tmp_path, output))]
    both = [subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=120)[1] for process in both]
    assert {process.returncode for process in both} <= {0, 1}
    assert any(process.returncode == 0 for process in both)
    for process, text in zip(both, errors, strict=True):
        assert process.returncode == 0 or "expected one that no other process uses" in text
    assert len(ase.io.read(output, ":")) == 3
