"""Long steps print a line at least once in every interval where there is no terminal."""

from __future__ import annotations

import re
import subprocess
import sys
import time

import numpy as np
import pytest

from finetune import progress
from finetune.progress import Progress

from .commands import CONFIGS, write_parts
from .structures import ROOT

INTERVAL_S = 0.5
# A CHGNet whose forward pass sleeps, so that every part of a fit is slow.
# A thread that only sleeps measures how late any thread wakes up on this machine.
SLOW_FIT = """
import atexit, sys, threading, time
late = [0.0]

def doze():
    while True:
        begun = time.monotonic()
        time.sleep(0.05)
        late.append(time.monotonic() - begun - 0.05)

threading.Thread(target=doze, daemon=True).start()
atexit.register(lambda: print(f"late: {{max(late)}}"))
from finetune import progress
from finetune.backbones.chgnet import CHGNet
from finetune.cli import main

progress.INTERVAL_S = {interval}
quick = CHGNet.energies

def slow(self, graph):
    time.sleep(0.4)
    return quick(self, graph)

CHGNet.energies = slow
sys.exit(main(sys.argv[1:]))
"""


def test_the_longest_silence_is_30_s_with_the_wait_of_the_thread():
    assert 5.0 <= progress.INTERVAL_S <= 29.0


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_S", 0.1)


def test_a_step_of_one_long_part_prints_lines_while_it_runs(short, capsys):
    with Progress("solve"):
        time.sleep(0.55)
    lines = capsys.readouterr().err.splitlines()
    assert 3 <= len(lines) <= 6
    assert all(re.fullmatch(r"solve: \d+ s", line) for line in lines)


def test_lines_have_the_count_and_the_figures_of_the_innermost_step(short, capsys):
    with Progress("learn"), Progress("label", 10, "frames") as inner:
        inner.update(3, "2 failed")
        time.sleep(0.15)
    assert capsys.readouterr().err.splitlines()[0] == "label: 3 of 10 frames, 2 failed, 0 s"


def test_short_and_hidden_steps_print_nothing(short, capsys):
    with Progress("evaluate", 4, "frames") as step:
        step.update(4)
    with Progress("evaluate", 4, "frames", shown=False):
        time.sleep(0.25)
    assert capsys.readouterr().err == ""


def test_no_thread_is_left_after_a_step_that_fails(short):
    with pytest.raises(ValueError, match="wrong"), Progress("fit"):
        raise ValueError("wrong")
    assert progress._ticker is None


def arrivals(command: list[str], **options: object) -> list[tuple[float, str]]:
    """Time of arrival, s after the start, and text of each line that a process prints."""
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options) as process:
        assert process.stdout is not None
        return [(time.monotonic() - begun, line.rstrip()) for line in process.stdout]


def test_a_slow_fit_without_a_terminal_is_never_silent_for_long(tmp_path):
    files = write_parts(tmp_path)
    script = tmp_path / "slow_fit.py"
    script.write_text(SLOW_FIT.format(interval=INTERVAL_S))
    data = [f"--data.{part}={files[part]}" for part in ("train", "valid")]
    more = ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_epochs", "2", "--data.batch_edges", "1"]
    lines = arrivals([sys.executable, "-u", str(script), "fit", *CONFIGS, *data, *more], cwd=ROOT)
    texts = [text for _, text in lines]
    assert any(re.fullmatch(r"evaluate: \d+ of 4 frames, \d+ s", text) for text in texts)  # before and after
    assert any(re.fullmatch(r"epoch 1/2: \d+ of 8 batches, \d+ s", text) for text in texts)
    errors = r"valid energy MAE [\d.e+]+ meV/atom, valid forces MAE [\d.e+]+ meV/Å"
    epoch = rf"epoch 2/2: train loss [\d.e+-]+, {errors}, \d+ s"
    assert any(re.fullmatch(epoch, text) for text in texts)
    late = next(float(text.split()[1]) for text in texts if text.startswith("late: "))
    begun = next(k for k, text in enumerate(texts) if text.startswith("evaluate"))
    times = [when for when, text in lines[begun:] if not text.startswith("late: ")]
    gaps = np.diff(times).tolist()
    assert max(gaps) < 2 * INTERVAL_S + 2 * late, (late, list(zip(gaps, texts[begun + 1 :], strict=False)))
