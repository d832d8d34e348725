"""What a simulation writes, and how it goes on after it was stopped: by a guard, a signal, a kill, a full disk."""

from __future__ import annotations

import csv
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.calculator import Calculator, all_changes
from ase.io.trajectory import Trajectory

import finetune
from finetune.backbones.ace import ACE
from finetune.backbones.chgnet import CHGNet
from finetune.errors import InputError
from finetune.md import (
    GUARDS,
    NPT,
    NVE,
    Energy,
    Extrapolating,
    Langevin,
    NoseHoover,
    Output,
    Stage,
    TooHot,
    Uncertain,
    simulate,
)
from finetune.md.files import trajectory

from .commands import command
from .einstein import crystal
from .structures import ROOT, of_family

HOT = Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=2.0)
ENSEMBLES = {
    "NVE": NVE(timestep_fs=2.0),
    "Langevin": HOT,
    "Langevin ramp": Langevin(temperature_K=(300.0, 700.0), friction_per_fs=0.02, timestep_fs=2.0),
    "Nosé-Hoover": NoseHoover(temperature_K=(300.0, 500.0), timestep_fs=2.0),
    **{f"NPT {cell}": NPT(temperature_K=400.0, cell=cell, timestep_fs=2.0) for cell in ("isotropic", "axes", "full")},
}


def model() -> Atoms:
    atoms = of_family("crystal")
    atoms.calc = finetune.calculator("chgnet", device="cpu")
    return atoms


def rows(directory: Path, name: str = "log.csv") -> list[dict[str, str]]:
    with (directory / name).open() as stream:
        return list(csv.DictReader(stream))


def until(steps: int, make, directory: Path, stages, **options) -> None:
    """Run that is cut off after some steps, as a kill would: the last checkpoint may lie before."""
    atoms = make()
    inner, calls = atoms.calc.calculate, []

    def dying(*given, **named):
        calls.append(1)
        if len(calls) > steps:
            raise MemoryError
        inner(*given, **named)

    atoms.calc.calculate = dying
    with pytest.raises(MemoryError):
        simulate(atoms, stages, directory, progress=False, **options)


@pytest.mark.parametrize("name", ENSEMBLES)
@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_a_restart_is_the_uninterrupted_run_to_the_last_bit(name, suffix, tmp_path):
    stages = [Stage(HOT, ps=0.02), Stage(ENSEMBLES[name], ps=0.04)]
    output = Output(trajectory=f"t.{suffix}", every=2, log_every=1, checkpoint_s=0.0, momenta=True)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    straight = crystal()
    simulate(straight, stages, whole, output=output, guards=[TooHot(factor=50.0)], progress=False)
    for steps in (7, 12, 5):  # in the first stage, in the second, in the second again
        until(steps, crystal, cut, stages, output=output, guards=[TooHot(factor=50.0)])
    again = crystal()
    outcome = simulate(again, stages, cut, output=output, guards=[TooHot(factor=50.0)], progress=False)
    assert outcome.finished
    for one, other in ((straight.positions, again.positions), (straight.get_momenta(), again.get_momenta())):
        np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(straight.cell.array, again.cell.array)
    for file in ("log.csv", "guards.csv", "final.extxyz", *(["t.extxyz"] if suffix == "extxyz" else [])):
        assert (whole / file).read_bytes() == (cut / file).read_bytes()
    frames = ase.io.read(cut / f"t.{suffix}", ":")
    assert [frame.info["step"] for frame in frames] == list(range(0, 31, 2))


def test_a_model_with_its_kept_neighbours_restarts_to_the_last_bit(tmp_path):
    stages, output = [Stage(HOT, ps=0.04)], Output(every=1, log_every=1, checkpoint_s=0.0, momenta=True)
    simulate(model(), stages, tmp_path / "whole", output=output, progress=False)
    until(9, model, tmp_path / "cut", stages, output=output)
    simulate(model(), stages, tmp_path / "cut", output=output, progress=False)
    for file in ("log.csv", "trajectory.extxyz"):
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "cut" / file).read_bytes()


SCRIPT = """
    import sys
    from finetune.md import Langevin, Output, Stage, simulate
    sys.path.insert(0, {tests!r})
    from einstein import crystal
    stage = Stage(Langevin(temperature_K=500.0, friction_per_fs=0.02, timestep_fs=2.0), ps=1.2)
    simulate(crystal(4), [stage], {directory!r}, output=Output(every=3, log_every=1, checkpoint_s=0.02))
"""


def started(directory: Path, first: str = "") -> subprocess.Popen:
    script = first + textwrap.dedent(SCRIPT.format(directory=str(directory), tests=str(ROOT / "tests")))
    return subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)


def grown(process: subprocess.Popen, directory: Path, size: int) -> None:
    """Wait until the log is that long."""
    deadline = time.monotonic() + 120
    while not ((directory / "log.csv").exists() and (directory / "log.csv").stat().st_size > size):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def assert_no_step_is_missing_or_twice(directory: Path, last: int) -> None:
    assert [int(row["step"]) for row in rows(directory)] == list(range(last + 1))
    assert [atoms.info["step"] for atoms in ase.io.read(directory / "trajectory.extxyz", ":")] == list(
        range(0, last + 1, 3)
    )


def test_a_killed_run_goes_on_without_a_missing_or_a_double_step(tmp_path):
    directory = tmp_path / "run"
    for size in (3000, 10000, 20000):
        process = started(directory)
        grown(process, directory, size)
        process.kill()
        process.communicate()
    stages, output = [Stage(HOT, ps=1.2)], Output(every=3, log_every=1, checkpoint_s=0.02)
    assert simulate(crystal(4), stages, directory, output=output, progress=False).finished
    assert_no_step_is_missing_or_twice(directory, 600)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_run_cleanly_after_a_checkpoint(number, tmp_path):
    directory = tmp_path / "run"
    process = started(directory)
    grown(process, directory, 3000)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode != 0
    assert "the same command goes on from there" in errors
    steps = len(rows(directory)) - 1
    assert steps > 10
    assert_no_step_is_missing_or_twice(directory, steps)
    with np.load(directory / "checkpoint.npz") as content:
        assert f'"step": {steps},' in str(content["facts"])


def test_a_full_disk_ends_a_run_with_whole_frames_and_it_goes_on_with_more_space(tmp_path):
    directory = tmp_path / "run"
    limit = 100_000

    little_space = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))
"""
    process = started(directory, little_space)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "cannot write to" in errors
    assert "everything up to the last write is readable" in errors
    frames = ase.io.read(directory / "trajectory.extxyz", ":")
    assert len(frames) > 5
    assert (directory / "trajectory.extxyz").stat().st_size <= limit
    assert [atoms.info["step"] for atoms in frames] == list(range(0, 3 * len(frames), 3))
    output = Output(every=3, log_every=1, checkpoint_s=0.02)
    simulate(crystal(4), [Stage(HOT, ps=1.2)], directory, output=output, progress=False)
    assert_no_step_is_missing_or_twice(directory, 600)


def test_a_longer_last_stage_goes_on_and_another_simulation_is_refused(tmp_path):
    simulate(crystal(), [Stage(HOT, ps=0.1)], tmp_path / "a", progress=False)
    longer = crystal()
    outcome = simulate(longer, [Stage(HOT, ps=0.2)], tmp_path / "a", progress=False)
    assert outcome.steps == 100
    straight = crystal()
    simulate(straight, [Stage(HOT, ps=0.2)], tmp_path / "b", progress=False)
    np.testing.assert_array_equal(straight.positions, longer.positions)
    other = crystal()
    other.positions[0, 0] += 0.01
    with pytest.raises(InputError, match=r"another simulation.*structure"):
        simulate(other, [Stage(HOT, ps=0.2)], tmp_path / "a", progress=False)
    with pytest.raises(InputError, match=r"another simulation.*seed"):
        simulate(crystal(), [Stage(HOT, ps=0.2)], tmp_path / "a", seed=1, progress=False)
    with pytest.raises(InputError, match=r"another simulation.*stages"):
        simulate(crystal(), [Stage(NoseHoover(), ps=0.2)], tmp_path / "a", progress=False)
    heavy = crystal()
    heavy.set_masses(np.full(len(heavy), 20.0))
    with pytest.raises(InputError, match=r"another simulation.*structure"):
        simulate(heavy, [Stage(HOT, ps=0.2)], tmp_path / "a", progress=False)
    other = crystal()
    other.calc.v0 *= 1.01
    with pytest.raises(InputError, match=r"another simulation.*calculator"):
        simulate(other, [Stage(HOT, ps=0.2)], tmp_path / "a", progress=False)


def test_a_directory_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(InputError, match="holds other files"):
        simulate(crystal(), [Stage(HOT, ps=0.1)], tmp_path, progress=False)


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_a_trajectory_has_energy_forces_stress_temperature_and_uncertainty(suffix, tmp_path):
    atoms = of_family("crystal")
    potentials = [finetune.load("chgnet"), CHGNet.tiny()]
    atoms.calc = finetune.calculator(potentials, device="cpu")
    output = Output(trajectory=f"t.{suffix}", every=2, log_every=2)
    simulate(atoms, [Stage(HOT, ps=0.008)], tmp_path, guards=[], output=output, progress=False)
    frames = ase.io.read(tmp_path / f"t.{suffix}", ":")
    assert [frame.info["step"] for frame in frames] == [0, 2, 4]
    assert frames[-1].info["time_ps"] == 0.008
    np.testing.assert_allclose(frames[-1].positions, atoms.positions, atol=1e-7)
    assert frames[-1].get_potential_energy() == pytest.approx(atoms.get_potential_energy(), abs=1e-6)
    np.testing.assert_allclose(frames[-1].get_forces(), atoms.get_forces(), atol=1e-7)
    np.testing.assert_allclose(frames[-1].get_stress(), atoms.get_stress(), atol=1e-7)
    frame = frames[-1]
    spread = frame.info["forces_std"] if suffix == "traj" else frame.arrays["forces_std"]
    np.testing.assert_allclose(spread, atoms.calc.results["forces_std"], atol=1e-7)
    log = rows(tmp_path)[-1]
    assert float(log["energy_std_eV"]) == pytest.approx(atoms.calc.results["energy_std"])
    assert float(log["temperature_K"]) == pytest.approx(frames[-1].info["temperature_K"])
    assert float(log["largest_forces_std_eV_A"]) == pytest.approx(
        np.linalg.norm(atoms.calc.results["forces_std"], axis=1).max()
    )


def test_a_stop_says_who_when_and_which_atoms_and_leaves_frames_to_label(tmp_path):
    torch_potential = ACE.variants()["pairs only"]  # random pairs: atoms fall into each other
    atoms = of_family("amorphous")
    atoms.calc = finetune.calculator(torch_potential, device="cpu")
    outcome = simulate(atoms, [Stage(HOT, ps=2.0)], tmp_path, progress=False)
    assert outcome.alarm is not None
    assert not outcome.finished
    message = outcome.message()
    assert message.startswith(f"stopped by {outcome.alarm.guard} at {outcome.time_ps:.4f} ps")
    assert f"before.extxyz and after.extxyz in {tmp_path}" in message
    before, after = (ase.io.read(tmp_path / f"{name}.extxyz", ":") for name in ("before", "after"))
    assert 1 <= len(before) <= 5
    assert len(after) == 1
    assert all(frame.calc is None and frame.info["family"] == "md" for frame in (*before, *after))
    np.testing.assert_allclose(after[0].positions, atoms.positions, atol=1e-7)
    events = rows(tmp_path, "guards.csv")
    assert (events[-1]["guard"], events[-1]["action"]) == (outcome.alarm.guard, "stop")
    again = of_family("amorphous")
    again.calc = finetune.calculator(torch_potential, device="cpu")
    assert simulate(again, [Stage(HOT, ps=2.0)], tmp_path, progress=False) == outcome


def test_a_fault_that_lasts_is_told_once_and_its_frame_is_saved(tmp_path):
    atoms = of_family("crystal")
    atoms.calc = finetune.calculator([CHGNet.tiny(), finetune.load("chgnet")], device="cpu")
    guards = [Uncertain(above=1e-6, action="save"), TooHot(factor=-10.0, action="warn")]
    assert simulate(atoms, [Stage(HOT, ps=0.02)], tmp_path, guards=guards, progress=False).finished
    events = rows(tmp_path, "guards.csv")
    assert [(row["step"], row["guard"], row["action"]) for row in events] == [
        ("1", "Uncertain", "save"),
        ("1", "TooHot", "warn"),
    ]
    saved = ase.io.read(tmp_path / "saved" / "000000001-Uncertain.extxyz")
    assert len(saved) == len(atoms)
    assert saved.calc is None


def test_forces_that_are_not_numbers_stop_a_run(tmp_path):
    atoms = crystal()
    inner = atoms.calc.calculate

    def broken(*given, **named):
        inner(*given, **named)
        if atoms.positions[0, 0] != 0.0:
            atoms.calc.results["forces"] = np.full((len(atoms), 3), np.nan)

    atoms.calc.calculate = broken
    outcome = simulate(atoms, [Stage(HOT, ps=0.1)], tmp_path, guards=[], progress=False)
    assert outcome.alarm.guard == "Calculator"
    assert outcome.steps == 1


def test_a_traj_is_cut_back_to_what_a_checkpoint_knows(tmp_path):
    with Trajectory(tmp_path / "a.traj", "w") as file:
        for k in range(5):
            frame = crystal(1)
            frame.info["step"] = k
            frame.calc = None
            file.write(frame)
    trajectory(tmp_path / "a.traj", 3).close()
    assert [frame.info["step"] for frame in ase.io.read(tmp_path / "a.traj", ":")] == [0, 1, 2]
    with pytest.raises(InputError, match="shorter than"):
        trajectory(tmp_path / "a.traj", 4)


def said(capsys, *arguments) -> tuple[int, str]:
    """Exit status and standard error of a command."""
    status = command(*arguments)
    return status, capsys.readouterr().err


def mistaken(tmp_path: Path, *more: str) -> list:
    start = ["md", "-c", ROOT / "configs/md/li-li7p3s11.yaml", "--directory", tmp_path / "run"]
    return [*start, *more]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--structure", "nowhere.cif"], "there is no file nowhere.cif"),
        (["--structure", str(ROOT / "README.md")], "cannot be read as a structure"),
        (["--calculator", "runs/nothing"], "there is no model file or run directory"),
        (["--calculator", "chgnett"], "did you mean"),
        (["--output.trajectory", "t.xtc"], "its suffix is"),
        (["--output.every", "0"], "give a number of steps"),
        (["--stages", "[]"], "there is no stage"),
        (["--device", "cuda:7"], "take cpu"),
        (["--fixed", "[{lower: 0.0, upper: 0.2}]"], "use Langevin"),
        (
            ["--stages", "[{ensemble: {class_path: finetune.md.Langevin, init_args: {temperature_K: -3}}, ps: 1}]"],
            "positive",
        ),
        (["--stages", "[{ensemble: {class_path: finetune.md.Langevin}, ps: -1}]"], "positive time"),
        (["--guards", "[{class_path: finetune.md.TooHott}]"], "TooHott"),
        (["--guards", "[{class_path: finetune.md.TooHot, init_args: {every: 0}}]"], "cannot work"),
        (["--seed=-1"], "give 0 or more"),
        (["--threads", "0"], "give 1 or more"),
        (["--directory", str(ROOT / "README.md")], "is a file"),
        (
            ["--stages", "[{ensemble: {class_path: finetune.md.Langevin, init_args: {timestep_fs: 300}}, ps: 1}]"],
            "20 fs",
        ),
    ],
)
def test_a_mistake_is_told_without_a_traceback(more, words, tmp_path, capsys):
    status, text = said(capsys, *mistaken(tmp_path, *more))
    assert status != 0
    assert words in text
    assert "Traceback" not in text


def test_an_element_that_the_model_does_not_know_is_told(tmp_path, capsys):
    finetune.save(ACE.tiny(), tmp_path / "ace.pt")
    ase.io.write(tmp_path / "iron.extxyz", bulk("Fe").repeat(2))
    status, text = said(
        capsys,
        *mistaken(tmp_path, "--calculator", str(tmp_path / "ace.pt"), "--structure", str(tmp_path / "iron.extxyz")),
    )
    assert status == 1
    assert "does not know Fe" in text


def test_a_cell_smaller_than_the_cutoff_runs(tmp_path):
    atoms = bulk("Li", "bcc", a=3.44)
    atoms.calc = finetune.calculator("chgnet", device="cpu")
    stage = Stage(Langevin(temperature_K=300.0), ps=0.01)
    assert simulate(atoms, [stage], tmp_path, progress=False).finished


def test_the_shipped_config_runs_from_the_command_line(tmp_path, capsys):
    stages = (
        "[{ensemble: {class_path: finetune.md.Langevin, init_args: {temperature_K: [50, 300]}}, ps: 0.003},"
        "{ensemble: {class_path: finetune.md.NPT, init_args: {temperature_K: 300}}, ps: 0.003}]"
    )
    arguments = mistaken(tmp_path, "--stages", stages, "--output.log_every", "1", "--dtype", "float64")
    assert command(*arguments) == 0
    assert "0.006 ps in 6 steps" in capsys.readouterr().out
    assert [row["stage"] for row in rows(tmp_path / "run")] == ["0"] * 4 + ["1"] * 3


def test_the_default_guards_are_all_there_is():
    assert len({type(guard) for guard in GUARDS}) == len(GUARDS) == 10


@pytest.mark.parametrize("suffix", ["extxyz", "traj"])
def test_a_run_that_died_before_its_second_checkpoint_begins_anew_with_one_header(suffix, tmp_path):
    stages, output = [Stage(HOT, ps=0.06)], Output(trajectory=f"t.{suffix}", every=5, log_every=5)
    until(12, crystal, tmp_path, stages, output=output)
    simulate(crystal(), stages, tmp_path, output=output, progress=False)
    assert [row["step"] for row in rows(tmp_path)] == ["0", "5", "10", "15", "20", "25", "30"]
    assert [atoms.info["step"] for atoms in ase.io.read(tmp_path / f"t.{suffix}", ":")] == list(range(0, 31, 5))
    assert (tmp_path / "guards.csv").read_text().count("step") == 1


def test_a_traj_without_a_header_is_begun_anew(tmp_path):
    (tmp_path / "t.traj").write_bytes(b"")
    trajectory(tmp_path / "t.traj", 0).close()


def test_the_same_atoms_go_on_in_the_same_session(tmp_path):
    atoms, straight = crystal(), crystal()
    simulate(atoms, [Stage(HOT, ps=0.1)], tmp_path / "a", progress=False)
    assert simulate(atoms, [Stage(HOT, ps=0.2)], tmp_path / "a", progress=False).steps == 100
    simulate(straight, [Stage(HOT, ps=0.2)], tmp_path / "b", progress=False)
    np.testing.assert_array_equal(straight.positions, atoms.positions)


def test_a_stop_leaves_the_same_frames_after_a_restart_and_goes_on_with_a_milder_guard(tmp_path):
    stages, output = [Stage(HOT, ps=0.4)], Output(checkpoint_s=0.0)
    strict = [TooHot(factor=-10.0, every=70)]
    once = simulate(crystal(), stages, tmp_path / "b", strict, output, progress=False)
    assert (once.steps, once.alarm.guard) == (70, "TooHot")
    until(68, crystal, tmp_path / "c", stages, guards=strict, output=output)
    assert simulate(crystal(), stages, tmp_path / "c", strict, output, progress=False).alarm == once.alarm
    frames = [(tmp_path / name / "before.extxyz").read_text() for name in "bc"]
    assert frames[0].replace('"b-', '"c-').replace("=b-", "=c-") == frames[1]
    assert len(ase.io.read(tmp_path / "c/before.extxyz", ":")) == 4
    assert ase.io.read(tmp_path / "c/final.extxyz").get_momenta().any()
    assert simulate(crystal(), stages, tmp_path / "c", [TooHot(factor=50.0)], output, progress=False).finished


class Mute(Calculator):
    """Energy and forces, and nothing else."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012
    fails_at = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        if self.fails_at is not None and abs(self.atoms.positions[0, 0]) > self.fails_at:
            raise RuntimeError("CUDA out of memory")
        self.results = {"energy": 0.0, "forces": np.zeros((len(self.atoms), 3))}


@pytest.mark.parametrize(("ensemble", "lacks"), [(NoseHoover(), "free_energy"), (NPT(), "stress|free_energy")])
def test_what_a_calculator_does_not_give_is_told_before_the_first_step(ensemble, lacks, tmp_path):
    atoms = crystal()
    atoms.calc = Mute()
    with pytest.raises(InputError, match=lacks):
        simulate(atoms, [Stage(HOT, ps=0.1), Stage(ensemble, ps=0.1)], tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


def test_a_calculator_that_fails_on_the_way_stops_the_run(tmp_path):
    atoms = crystal()
    atoms.calc = Mute()
    atoms.calc.fails_at = 0.01
    outcome = simulate(atoms, [Stage(HOT, ps=1.0)], tmp_path, guards=[], progress=False)
    assert "CUDA out of memory" in outcome.message()
    atoms = crystal()
    atoms.calc = Mute()
    assert simulate(atoms, [Stage(HOT, ps=1.0)], tmp_path, guards=[], progress=False).finished
    assert ase.io.read(tmp_path / "before.extxyz", ":")


@pytest.mark.parametrize("name", ["final.extxyz", "../elsewhere.xyz", "/elsewhere/t.xyz", "sub/t.extxyz"])
def test_a_trajectory_does_not_take_the_place_of_another_file(name, tmp_path):
    with pytest.raises(InputError, match="plain file name"):
        simulate(crystal(), [Stage(HOT, ps=0.1)], tmp_path, output=Output(trajectory=name), progress=False)


def test_the_energy_guard_says_so_where_it_does_not_know_the_reaction_energy(tmp_path, capsys):
    compound = model()
    assert len(set(compound.numbers)) > 1
    for guard, atoms, said in (
        (Energy(), compound, True),
        (Energy(reaction=-0.7), compound, False),
        (Energy(), crystal(), False),  # an element does not react with itself
    ):
        simulate(
            atoms, [Stage(HOT, 0.004)], tmp_path / f"{said}-{len(atoms)}-{guard.reaction}", [guard], progress=False
        )
        assert ("guard Energy: it stops at a change of 1 eV/atom" in capsys.readouterr().err) == said


@pytest.mark.parametrize("file", ["settings.json", "checkpoint.npz"])
def test_a_damaged_file_of_a_run_is_told(file, tmp_path):
    simulate(crystal(), [Stage(HOT, ps=0.1)], tmp_path, progress=False)
    (tmp_path / file).write_bytes((tmp_path / file).read_bytes()[:100])
    with pytest.raises(InputError, match="damaged"):
        simulate(crystal(), [Stage(HOT, ps=0.1)], tmp_path, progress=False)


def test_a_guard_that_has_nothing_to_look_at_is_told_unless_it_is_one_of_the_usual(tmp_path, capsys):
    guards = [*GUARDS, Uncertain(by="forces_error", above=0.1), Extrapolating(above=3.0)]
    simulate(crystal(), [Stage(HOT, 0.01)], tmp_path, guards, progress=False)
    told = [line for line in capsys.readouterr().err.splitlines() if "never acts" in line]
    assert [line.split()[2] for line in told] == ["Uncertain", "Extrapolating"]
    assert [line.split()[-1] for line in told] == ["forces_error", "gamma"]
    committee = model()
    committee.calc = finetune.calculator(["chgnet", "chgnet:r2scan"], device="cpu")
    simulate(committee, [Stage(HOT, 0.004)], tmp_path / "seen", [Uncertain(above=50.0)], progress=False)
    assert "never acts" not in capsys.readouterr().err
