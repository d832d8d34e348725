"""The benchmarks run, and the two sides of a race do the same work; how fast they are is not tested here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest


def _run(root: Path, script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", f"tests/benchmarks/{script}", *arguments]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _numbers(pattern: str, out: str) -> list[float]:
    """The numbers that a pattern finds."""
    found = re.search(pattern, out)
    assert found, out
    return [float(x) for x in found.groups()]


ERRORS = r"([\d.]+) eV/Å here, ([\d.]+) eV/Å there"  # of the forces in the first epoch


def test_race_against_chgnet_prints_ratios_for_the_same_work(root: Path) -> None:
    sizes = ("--frames", "4", "--batch", "2", "--epochs", "2", "--repeats", "1")
    out = _run(root, "bench_epoch.py", "--only", "chgnet", *sizes)
    ours, theirs = _numbers(ERRORS, out)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert ours > 0.05
    for line in ("warm epoch", "first epoch, ours with graphs"):
        assert _numbers(rf"{line}: ([\d.]+) \([^)]*\) by the clock, ([\d.]+) ", out) > [0.0, 0.0]


@pytest.mark.slow
def test_race_against_mace_prints_a_ratio_for_the_same_work(root: Path) -> None:
    sizes = ("--frames", "4", "--batch", "2", "--epochs", "2", "--repeats", "1")
    out = _run(root, "bench_epoch.py", "--only", "mace", "--tiny", *sizes)
    ours, theirs = _numbers(ERRORS, out)
    assert ours == pytest.approx(theirs, rel=1e-3)
    assert _numbers(r"warm epoch: ([\d.]+) \([^)]*\) by the clock, ([\d.]+) ", out) > [0.0, 0.0]


def test_unequal_work_is_not_compared(root: Path) -> None:
    code = "import bench_epoch, numpy; t = numpy.ones((1, 2, 2)); o = bench_epoch._parser().parse_args([])"
    code += "; bench_epoch._tell('chgnet', o, bench_epoch.Times(t, t, (0.30, 0.31)))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=root / "tests/benchmarks", capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "not the same work" in done.stderr


@pytest.mark.parametrize("potential", ["chgnet.tiny", pytest.param("mace.tiny", marks=pytest.mark.slow)])
def test_peak_memory_is_that_of_a_batch_and_the_graphs(root: Path, potential: str) -> None:
    out = _run(root, "bench_memory.py", "--frames", "8", "64", "--potential", potential, "--batch-edges", "1500")
    rows = [[float(x) for x in line.split()] for line in out.splitlines() if re.match(r"\s+\d", line)]
    (few, peak, graphs, rest, _), (many, _, more_graphs, more_rest, _) = rows
    assert (few, many) == (8, 64)
    assert peak == pytest.approx(graphs + rest, abs=0.02)
    assert more_graphs == pytest.approx(8 * graphs, rel=0.3)
    assert more_rest < 1.1 * rest


def test_the_cost_of_uncertainty_is_a_ratio(root: Path) -> None:
    out = _run(root, "bench_uncertainty.py", "--only", "ace", "--atoms", "40", "--calls", "3", "--frames", "8")
    for side in ("graded", "graded, calibrated", "8 readouts", "8 readouts, forces too", "committee of 8"):
        assert _numbers(rf"  {side} +([\d.]+) \(", out) > [0.0]
    assert _numbers(r"committee of 8 +([\d.]+) \(", out) > [3.0]
