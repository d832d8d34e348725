"""`kill -9` at any moment of a campaign, then the same command again: the same labels, each computed once."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import yaml

from finetune.locks import locked

from .campaigns import answers, write_config, write_files
from .commands import command, process
from .test_bad_input_cli import room_for

COUNTING = """
import os
from ase.calculators.emt import EMT

class Counted(EMT):
    def calculate(self, atoms=None, *arguments, **others):
        super().calculate(atoms, *arguments, **others)
        with open(os.environ["COUNTED"], "a") as log:
            log.write(f"{atoms.positions.round(6).tobytes().hex()[:200]}" + chr(10))
"""


def files_in(directory: Path) -> int:
    return sum(path.is_file() for path in directory.rglob("*"))


def test_two_campaigns_do_not_compute_into_one_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path / "learn.yaml", write_files(tmp_path), "ase.calculators.emt.EMT")
    with locked(tmp_path / "run"):
        assert command("learn", "-c", config, "--directory", tmp_path / "run") == 1
    errors = capsys.readouterr().err
    assert "that process" in errors
    assert "choose another --directory" in errors


@pytest.mark.parametrize("size", [pytest.param(1_500, marks=pytest.mark.slow), 8_000])
def test_a_full_disk_ends_the_command_in_one_line_and_nothing_labelled_is_lost(tmp_path: Path, size: int) -> None:
    config = write_config(tmp_path / "learn.yaml", write_files(tmp_path), "ase.calculators.emt.EMT")
    full = tmp_path / "full"
    with room_for(size):  # workers inherit it
        running = process("learn", "-c", config, "--directory", full, log=tmp_path / "full.log")
    assert running.wait(300) == 1
    told = (tmp_path / "full.log").read_text()
    assert "Traceback" not in told
    assert told.strip().splitlines()[-1].startswith("error: cannot write")
    kept = {path.name: path.read_bytes() for path in (full / "labels").glob("*.extxyz")}
    assert process("learn", "-c", config, "--directory", full, log=tmp_path / "again.log").wait(300) == 0
    assert {name: (full / "labels" / name).read_bytes() for name in kept} == kept
    assert sum(len(values) for values in answers(full).values()) >= 24


@pytest.mark.parametrize(
    ("kills", "executor"),
    [
        (3, {}),
        pytest.param(20, {}, marks=pytest.mark.slow),
        pytest.param(5, {"class_path": "finetune.labelling.Processes"}, marks=pytest.mark.slow),
    ],
    ids=["3", "20", "5 in processes"],
)
def test_a_killed_campaign_ends_with_the_same_labels_each_computed_once(
    tmp_path: Path, rng: np.random.Generator, kills: int, executor: dict[str, str]
) -> None:
    (tmp_path / "counting.py").write_text(COUNTING)
    config = write_config(tmp_path / "learn.yaml", write_files(tmp_path), "counting.Counted")
    if executor:
        config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "executor": executor}))
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    search = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])

    def start(directory: Path) -> subprocess.Popen[bytes]:
        log = tmp_path / f"{directory.name}.log"
        counted = str(tmp_path / f"{directory.name}.counted")
        words = ("learn", "-c", config, "--directory", directory, "--allow", "counting.Counted")
        return process(*words, log=log, PYTHONPATH=search, COUNTED=counted)

    assert start(whole).wait(300) == 0, (tmp_path / "whole.log").read_text()
    total = files_in(whole)
    struck = 0
    for moment in np.sort(rng.uniform(0.02, 0.98, kills)):
        running = start(killed)
        while files_in(killed) < moment * total and running.poll() is None:
            time.sleep(0.005)
        time.sleep(float(rng.uniform(0.0, 0.05)))
        struck += running.poll() is None
        os.killpg(running.pid, signal.SIGKILL)
        running.wait(60)
    assert struck >= kills - 1
    assert start(killed).wait(300) == 0, (tmp_path / "killed.log").read_text()

    expected, found = answers(whole), answers(killed)
    assert list(found) == list(expected)
    assert sum(len(values) for values in expected.values()) >= 24
    for name, values in expected.items():
        for one, other in zip(found[name], values, strict=True):
            np.testing.assert_array_equal(one, other)
    stored = [sorted(path.name for path in (place / "labels").glob("*.extxyz")) for place in (whole, killed)]
    assert stored[0] == stored[1]
    once, again = (Counter((tmp_path / f"{name}.counted").read_text().split()) for name in ("whole", "killed"))
    assert set(once) == set(again)
    assert max(once.values()) == 1
    assert sum(again.values()) - sum(once.values()) <= kills  # at most those that were being computed
