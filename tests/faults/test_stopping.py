"""Ends of commands that nobody planned: a directory that vanishes, SIGTERM, a calculator that raises anything."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from finetune.cli import main
from finetune.errors import InputError
from finetune.md import Langevin, Output, Stage, simulate

from ..commands import THEIR_WARNINGS, command, fit_arguments, process, write_parts
from ..einstein import EinsteinCrystal, crystal
from .test_locks import label_config, learn_config, md_config

pytestmark = THEIR_WARNINGS
HOT = Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=2.0)


class Vanishing(EinsteinCrystal):
    """Removes a directory at its tenth calculation, as another process may."""

    directory: Path
    calls = 0

    def calculate(self, *given, **named):
        self.calls += 1
        if self.calls == 10:
            shutil.rmtree(self.directory)
        super().calculate(*given, **named)


@pytest.mark.parametrize("trajectory", ["trajectory.extxyz", "trajectory.traj"])
@pytest.mark.parametrize("every", [1, 10_000])
def test_a_simulation_whose_directory_was_removed_ends_with_an_error(tmp_path, trajectory, every):
    atoms = crystal()
    atoms.calc = Vanishing(atoms)
    atoms.calc.directory = tmp_path / "run"
    output = Output(trajectory=trajectory, every=every, log_every=every)
    with pytest.raises(InputError, match=r"run: got a directory whose files were removed or replaced"):
        simulate(atoms, [Stage(HOT, 0.1)], tmp_path / "run", output=output, progress=False)
    assert not list(tmp_path.rglob("*.*"))  # nothing that looks like a run


FAILING = """
import subprocess
from ase.calculators.emt import EMT

class OddError(Exception):
    pass

class Failing(EMT):
    def __init__(self, after=0, odd=False):
        super().__init__()
        self.after, self.odd = after, odd

    def calculate(self, *given, **named):
        self.after -= 1
        if self.after < 0:
            raise OddError("odd") if self.odd else subprocess.CalledProcessError(1, "vasp")
        super().calculate(*given, **named)
"""


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize(("after", "expected"), [(0, 1), (3, 3)])
def test_a_calculator_that_raises_anything_stops_dynamics_with_words(
    tmp_path, monkeypatch, capfd, odd, after, expected
):
    name = f"failing_{odd}_{after}"
    (tmp_path / f"{name}.py").write_text(FAILING)
    monkeypatch.syspath_prepend(tmp_path)
    arguments = md_config(tmp_path, tmp_path / "run")
    text = Path(arguments[2]).read_text().replace("ase.calculators.emt.EMT", f"{name}.Failing")
    text = text.replace("calculator:\n", f"calculator:\n  init_args: {{after: {after}, odd: {str(odd).lower()}}}\n")
    Path(arguments[2]).write_text(text)
    assert command(*arguments, "--allow", name) == expected
    said = capfd.readouterr()
    assert ("odd" if odd else "returned non-zero exit status 1") in said.out + said.err


def wait_for(path: Path, running: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 240
    while not path.exists():
        assert running.poll() is None
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_fit_at_sigterm_ends_with_143_a_word_and_a_checkpoint_to_go_on_from(tmp_path):
    arguments = fit_arguments(
        write_parts(tmp_path), tmp_path / "run", "--data.test", "null", "--trainer.max_epochs", "200"
    )
    fit = process(*arguments, log=tmp_path / "log")
    try:
        wait_for(tmp_path / "run/last.ckpt", fit)
        fit.send_signal(signal.SIGTERM)
        status = fit.wait(240)
    finally:
        fit.kill()
        fit.wait()
    said = (tmp_path / "log").read_text()
    assert status == 143, said[-2000:]
    assert "stopped by SIGTERM; what was finished is on disk, and --ckpt_path last goes on with a fit" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "run").glob("*.partial"))
    lines = len((tmp_path / "run/metrics.csv").read_text().splitlines())
    again = [*arguments, "--trainer.max_epochs", str(lines + 1), "--ckpt_path", "last"]
    assert command(*again) == 0


@pytest.mark.parametrize(("config", "place"), [(learn_config, "run"), (label_config, "out.extxyz")])
def test_sigterm_ends_other_commands_with_143_and_they_go_on(tmp_path, config, place):
    arguments = config(tmp_path, tmp_path / place)
    lock = tmp_path / {"run": "run/lock"}.get(place, "out.extxyz.labels/lock")
    running = process(*arguments, log=tmp_path / "log")
    try:
        wait_for(lock, running)
        running.send_signal(signal.SIGTERM)
        status = running.wait(120)
    finally:
        running.kill()
        running.wait()
    said = (tmp_path / "log").read_text()
    assert status in (143, 0), said
    assert status == 0 or "stopped by SIGTERM; what was finished is on disk, and the same command goes on" in said
    assert command(*arguments) == 0


def test_the_handler_of_sigterm_is_that_of_before_after_a_command():
    before = signal.getsignal(signal.SIGTERM)
    assert main(["--version"]) == 0
    assert command("models") == 0
    assert signal.getsignal(signal.SIGTERM) is before
