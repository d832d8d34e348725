"""Labelling: each frame once, nothing lost, failures aside with their reasons, any executor."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import ase.io
import numpy as np
import pytest
import yaml
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones
from ase.io.espresso import kspacing_to_grid

from finetune.errors import InputError
from finetune.labelling import Calculated, Grid, Processes, dask
from finetune.labelling.run import label, report
from finetune.labelling.store import Store, identity

from .commands import command, process
from .structures import ROOT

# Calculators that worker processes import: slow, counted, failing unless told otherwise, and deadly.
TOYS = '''
import os, signal, time
import numpy as np
from ase.calculators.lj import LennardJones

class Counted(LennardJones):
    """Sleeps, and notes in a file that it has computed a frame."""
    def __init__(self, record, sleep_s=0.0, **kwargs):
        super().__init__(**kwargs)
        self.record, self.sleep_s = record, sleep_s
    def calculate(self, *args, **kwargs):
        time.sleep(self.sleep_s)
        super().calculate(*args, **kwargs)
        with open(self.record, "a") as file:
            file.write(f"{self.atoms.positions.sum():.6f}\\n")

class Failing(LennardJones):
    """Fails for frames of more than two atoms unless `careful`."""
    def __init__(self, careful=False, log=None, fault="raise", **kwargs):
        super().__init__(**kwargs)
        self.careful, self.log, self.fault, self.converged = careful, log, fault, True
    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        if self.log:
            with open(self.log, "a") as file:
                file.write(f"careful {self.careful}\\n")
        if len(self.atoms) > 2 and not self.careful:
            if self.fault == "raise":
                raise RuntimeError("SCF did not converge in 3 steps")
            if self.fault == "nan":
                self.results["forces"] = self.results["forces"] * np.nan
            if self.fault == "unconverged":
                self.converged = False
            if self.fault == "die":
                os.kill(os.getpid(), signal.SIGKILL)
'''


@pytest.fixture
def toys(tmp_path, monkeypatch) -> Path:
    """The folder with the toy calculators, on the path of this process and its children."""
    folder = tmp_path / "toys"
    folder.mkdir()
    (folder / "toy_calculators.py").write_text(TOYS)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.syspath_prepend(folder)
    sys.modules.pop("toy_calculators", None)
    return folder


def frames(count: int, atoms: int = 2) -> list[Atoms]:
    """Rattled argon crystals, all different."""
    made = []
    for k in range(count):
        crystal = bulk("Ar", cubic=True) if atoms > 2 else bulk("Ar").repeat((2, 1, 1))
        crystal.rattle(0.05, seed=k)
        crystal.info.update(family="crystal", group=f"group-{k // 2}", made_by=f"Rattled {k}")
        made.append(crystal)
    return made


def counted(record: Path, sleep_s: float = 0.0) -> Calculated:
    return Calculated("toy_calculators.Counted", {"record": str(record), "sleep_s": sleep_s, "sigma": 3.4})


def arguments(folder: Path, **init_args: object) -> list[str | Path]:
    """`finetune label` with a config of `Calculated` beside the frames; the output goes last."""
    labeller = {"class_path": "finetune.labelling.Calculated", "init_args": init_args}
    (folder / "label.json").write_text(json.dumps({"labeller": labeller}))
    out = folder / "out.extxyz"
    allowed = ("--allow", "toy_calculators")
    return ["label", folder / "frames.extxyz", *allowed, "-c", folder / "label.json", "--output", out]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_labels_are_those_of_the_calculator_and_the_frame_keeps_its_story(tmp_path):
    found = label(
        frames(3), Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.4}), ThreadPoolExecutor(1), tmp_path
    )
    for atoms, given in zip(found.labelled, frames(3), strict=True):
        given.calc = LennardJones(sigma=3.4)
        assert atoms.info["REF_energy"] == pytest.approx(given.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(atoms.arrays["REF_forces"], given.get_forces(), atol=1e-7)  # extended XYZ: 8 digits
        np.testing.assert_allclose(atoms.info["REF_stress"], given.get_stress(), atol=1e-12)
        assert {key: atoms.info[key] for key in ("family", "group", "made_by")} == given.info
        assert atoms.info["label_code"].startswith("ase ")
        assert atoms.info["wall_s"] >= 0


def test_the_free_energy_is_the_label_because_forces_are_its_derivatives(tmp_path, toys):
    (toys / "hot.py").write_text(
        "from ase.calculators.lj import LennardJones\n"
        "class Hot(LennardJones):\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        super().calculate(*args, **kwargs)\n"
        "        self.results['free_energy'] = self.results['energy'] - 0.25\n"
    )
    hot = label(frames(1), Calculated("hot.Hot"), ThreadPoolExecutor(1), tmp_path / "hot").labelled[0]
    cold = label(
        frames(1), Calculated("ase.calculators.lj.LennardJones"), ThreadPoolExecutor(1), tmp_path / "cold"
    ).labelled[0]
    assert hot.info["REF_energy"] == pytest.approx(cold.info["REF_energy"] - 0.25)


def test_a_molecule_has_no_stress_label(tmp_path):
    molecule = Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])
    labelled = label(
        [molecule], Calculated("ase.calculators.lj.LennardJones"), ThreadPoolExecutor(1), tmp_path
    ).labelled
    assert "REF_stress" not in labelled[0].info


def test_a_frame_is_never_computed_twice(tmp_path, toys):
    given = frames(4)
    label(given[:3], counted(tmp_path / "record"), ThreadPoolExecutor(1), tmp_path / "store")
    again = label([*given, given[0].copy()], counted(tmp_path / "record"), ThreadPoolExecutor(1), tmp_path / "store")
    assert len(lines(tmp_path / "record")) == 4
    assert [identity(atoms) for atoms in again.labelled] == [identity(atoms) for atoms in given]
    assert again.repeated == 1


def test_labels_of_the_same_method_are_taken_over(tmp_path, toys):
    given, labeller = frames(3), counted(tmp_path / "record")
    known = label(given[:2], labeller, ThreadPoolExecutor(1), tmp_path / "one").labelled
    other = label(given[2:], Calculated("ase.calculators.lj.LennardJones"), ThreadPoolExecutor(1), tmp_path / "two")
    found = label(given, labeller, ThreadPoolExecutor(1), tmp_path / "all", known=[*known, *other.labelled])
    assert len(lines(tmp_path / "record")) == 3
    assert {atoms.info["label_method"] for atoms in found.labelled} == {labeller.method_hash()}
    assert found.labelled[0].info["REF_energy"] == known[0].info["REF_energy"]


@pytest.mark.parametrize("fault", ["raise", "nan", "unconverged"])
def test_a_failed_frame_is_kept_aside_with_reason_and_log_and_never_enters_the_data(tmp_path, toys, fault):
    given = [*frames(2), *frames(1, atoms=4)]
    labeller = Calculated("toy_calculators.Failing", {"fault": fault, "log": "{log}", "sigma": 3.4})
    found = label(given, labeller, ThreadPoolExecutor(1), tmp_path)
    assert [len(atoms) for atoms in found.labelled] == [2, 2]
    bad = identity(given[2])
    words = {"raise": "SCF did not converge", "nan": "not finite", "unconverged": "not converged"}[fault]
    assert words in found.failed[bad][0]
    assert (tmp_path / f"logs/{bad}.txt").read_text() == "careful False\n"
    assert len(ase.io.read(tmp_path / f"failed/{bad}.extxyz")) == 4
    # it is not computed again unless that is wanted
    (tmp_path / f"logs/{bad}.txt").unlink()
    label(given, labeller, ThreadPoolExecutor(1), tmp_path)
    assert not (tmp_path / f"logs/{bad}.txt").exists()
    label(given, labeller, ThreadPoolExecutor(1), tmp_path, retry=True)
    assert (tmp_path / f"logs/{bad}.txt").exists()


def test_fallback_settings_are_tried_and_noted(tmp_path, toys):
    labeller = Calculated("toy_calculators.Failing", {"log": "{log}"}, fallbacks=[{"sigma": 1.0}, {"careful": True}])
    found = label(frames(1, atoms=4), labeller, ThreadPoolExecutor(1), tmp_path)
    assert found.labelled[0].info["label_fallback"] == 2
    assert not found.failed
    assert [path.name for path in (tmp_path / "failed").iterdir()] == []


def test_labels_of_two_methods_do_not_mix(tmp_path):
    label(frames(1), Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.4}), ThreadPoolExecutor(1), tmp_path)
    other = Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.5})
    with pytest.raises(InputError, match=r'another method.*"sigma": 3.4.*"sigma": 3.5'):
        label(frames(1), other, ThreadPoolExecutor(1), tmp_path)


def test_fallbacks_places_of_output_and_patience_are_no_part_of_the_method():
    plain = Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.4})
    more = Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.4, "txt": "{log}"}, fallbacks=[{"rc": 9.0}])
    assert plain.method_hash() == more.method_hash()
    assert plain.method_hash() == Calculated(plain.calculator, {"sigma": 3.4, "maxiter": 60}).method_hash()
    assert plain.method_hash() != Calculated("ase.calculators.lj.LennardJones", {"sigma": 3.5}).method_hash()


def test_family_and_group_are_those_of_the_input_not_of_the_store(tmp_path):
    given, labeller = frames(1), Calculated("ase.calculators.lj.LennardJones")
    label(given, labeller, ThreadPoolExecutor(1), tmp_path)
    given[0].info.update(group="another", temperature_K=300)
    del given[0].info["made_by"]
    [again] = label(given, labeller, ThreadPoolExecutor(1), tmp_path).labelled
    assert again.info["group"] == "another"
    assert again.info["temperature_K"] == 300
    assert "made_by" not in again.info
    assert "label_method" in again.info


def test_identity_survives_a_file_and_tells_magnetic_orders_apart(tmp_path):
    rng = np.random.default_rng(0)
    given = [Atoms("Li4", rng.uniform(0, 5, (4, 3)), cell=[5, 5, 5], pbc=True) for _ in range(300)]
    given[0].positions[0, 0] = 1.0000149999  # on the border of two roundings
    ase.io.write(tmp_path / "a.extxyz", given, format="extxyz")
    assert [identity(a) for a in ase.io.read(tmp_path / "a.extxyz", ":")] == [identity(a) for a in given]
    up, down = (Atoms("Fe2", [[0, 0, 0], [0, 0, 2]], cell=[3, 3, 4], pbc=True, magmoms=m) for m in ([2, 2], [2, -2]))
    assert identity(up) != identity(down)


def test_a_setting_that_the_calculator_does_not_take_is_told_before_anything_is_computed():
    (no_setting := Calculated("ase.calculators.lj.LennardJones")).check()
    assert no_setting.method_hash().startswith("m")
    with pytest.raises(InputError, match=r"finetune.calculator.*devise"):
        Calculated("finetune.calculators.calculator", {"model": "chgnet", "devise": "cpu"}).check()


def test_how_a_code_is_started_is_no_part_of_the_method():
    few, many = (Calculated("ase.calculators.vasp.Vasp", {"command": f"mpirun -np {n} vasp"}) for n in (8, 16))
    assert few.method_hash() == many.method_hash()


def test_the_espresso_config_asks_for_the_k_points_of_the_others():
    settings = yaml.safe_load((ROOT / "configs/label/espresso.yaml").read_text())["labeller"]["init_args"]["settings"]
    lithium = bulk("Li", "bcc", a=3.44, cubic=True)
    assert min(kspacing_to_grid(lithium, settings["kspacing"])) >= max(Grid(15.0).size(lithium))


PRINTED = {
    "log.pwo": ("     Program PWSCF v.7.3.1 starts on 12Nov2026 at 10:12:33", "PWSCF 7.3.1"),
    "OUTCAR": (" vasp.6.4.2 20Jul23 (build Nov  2 2024 12:00:00) complex", "VASP 6.4.2"),
    "cp2k.out": (" CP2K| version string:                 CP2K version 2024.1", "CP2K 2024.1"),
    "log.txt": ("nothing of the kind", ""),
}


@pytest.mark.parametrize("name", PRINTED)
def test_the_version_that_a_program_prints_is_kept_with_its_labels(name, tmp_path, monkeypatch):
    line, told = PRINTED[name]
    code = f"""
from pathlib import Path
from ase.calculators.lj import LennardJones
class Program(LennardJones):
    def __init__(self, directory):
        super().__init__()
        Path(directory, {name!r}).write_text({line!r} + "\\n" + 300_000 * "x")
"""
    (tmp_path / "printing_program.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "printing_program", raising=False)
    outcome = Calculated("printing_program.Program", {"directory": "{directory}"}).label(frames(1)[0])
    assert outcome.atoms is not None, outcome.reasons
    assert outcome.atoms.info["label_code"] == ", ".join(filter(None, [told, "printing_program"]))


@pytest.mark.parametrize("path", ["nowhere.Calculator", "ase.calculators.lj.Nothing", "plain"])
def test_a_calculator_that_is_not_there_is_told_before_anything_is_computed(path):
    with pytest.raises(InputError, match=f"calculator .*{path}"):
        Calculated(path).check()


def test_a_frame_that_kills_its_worker_is_kept_aside_and_takes_no_other_with_it(tmp_path, toys):
    given = [*frames(1, atoms=4), *frames(4)]
    labeller = Calculated("toy_calculators.Failing", {"fault": "die"})
    found = label(given, labeller, Processes(2), tmp_path)
    assert list(found.failed) == [identity(given[0])]
    assert "died 2 times" in found.failed[identity(given[0])][-1]
    assert len(found.labelled) == 4


def test_a_suspect_that_is_labelled_is_no_longer_one(tmp_path):
    [given], labeller = frames(1), Calculated("ase.calculators.lj.LennardJones")
    Store(tmp_path, labeller).died(identity(given), given, alone=False)
    assert len(label([given], labeller, ThreadPoolExecutor(1), tmp_path).labelled) == 1
    assert not list((tmp_path / "failed").iterdir())


class Given(Executor):
    """Answers with what it was given: a value, or an exception."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        answer = self.answers.pop(0)
        future.set_exception(answer) if isinstance(answer, BaseException) else future.set_result(fn(*args))
        return future


def test_what_is_finished_is_kept_when_the_executor_breaks(tmp_path):
    broken = BrokenProcessPool("gone")
    answers = Given(1, 1, broken, 1, 1, 1, broken, broken)  # twice more over the same frame, alone
    found = label(frames(6), Calculated("ase.calculators.lj.LennardJones"), answers, tmp_path)
    assert len(found.labelled) == len(list(tmp_path.glob("*.extxyz"))) == 5
    assert list(found.failed) == [identity(frames(3)[2])]


class Dead(Executor):
    """Takes nothing any more."""

    def submit(self, fn, /, *args, **kwargs):
        raise BrokenProcessPool("gone")


def test_an_executor_that_is_dead_ends_the_command(tmp_path):
    with pytest.raises(InputError, match=r"workers died 4 times in a row.*[Rr]un the same command again"):
        label(frames(3), Calculated("ase.calculators.lj.LennardJones"), Dead(), tmp_path)


def test_a_lost_node_costs_its_frame_and_nothing_else(tmp_path):
    labeller = Calculated("ase.calculators.lj.LennardJones")
    found = label(frames(3), labeller, Given(1, OSError("manager lost"), 1), tmp_path)
    assert len(found.labelled) == 2
    assert found.missing == [identity(frames(3)[1])]  # and the next run tries it again
    assert len(label(frames(3), labeller, Given(1), tmp_path).labelled) == 3


def runs(place: Path) -> bool:
    """Whether the process of a folder in /proc is alive; it may end while it is looked at."""
    try:
        return "zombie" not in (place / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_programs_that_a_worker_started_end_with_the_command(tmp_path, toys):
    (toys / "started.py").write_text(
        "import subprocess\n"
        "from ase.calculators.lj import LennardJones\n"
        "class Started(LennardJones):\n"
        "    def __init__(self, pid, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.pid = pid\n"
        "    def calculate(self, *args, **kwargs):\n"
        "        child = subprocess.Popen(['sleep', '60'])\n"
        "        open(self.pid, 'w').write(str(child.pid))\n"
        "        child.wait()\n"
    )
    ase.io.write(tmp_path / "frames.extxyz", frames(1), format="extxyz")
    words = arguments(tmp_path, calculator="started.Started", settings={"pid": str(tmp_path / "pid")})
    running = process(*words, "--allow", "started", log=tmp_path / "log")
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert running.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    child = Path("/proc") / (tmp_path / "pid").read_text()
    assert child.exists()
    running.kill()
    running.wait()
    deadline = time.monotonic() + 10
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not runs(child)


def executors() -> dict[str, Executor]:
    import parsl
    from parsl.concurrent import ParslPoolExecutor
    from parsl.config import Config
    from parsl.executors import HighThroughputExecutor
    from parsl.providers import LocalProvider

    node = HighThroughputExecutor(
        max_workers_per_node=2, address="127.0.0.1", provider=LocalProvider(init_blocks=1, max_blocks=1)
    )
    assert parsl
    return {"parsl": ParslPoolExecutor(Config(executors=[node], usage_tracking=0))}


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["processes", "dask", "parsl"])
def test_any_executor_gives_the_same_labels(tmp_path, toys, kind, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))  # for parsl
    made = {"processes": lambda: Processes(2), "dask": lambda: dask(workers=2), "parsl": lambda: executors()["parsl"]}
    labeller = counted(tmp_path / "record")
    expected = label(frames(5), labeller, ThreadPoolExecutor(1), tmp_path / "threads").labelled
    with made[kind]() as executor:
        found = label(frames(5), labeller, executor, tmp_path / kind).labelled
    for one, other in zip(found, expected, strict=True):
        assert identity(one) == identity(other)
        assert one.info["REF_energy"] == other.info["REF_energy"]
        np.testing.assert_array_equal(one.arrays["REF_forces"], other.arrays["REF_forces"])


def kill_often(folder: Path, count: int, kills: int, sleep_s: float) -> None:
    """Label by the command line, kill it at random moments, then let it end; check what is there."""
    ase.io.write(folder / "frames.extxyz", frames(count), format="extxyz")
    settings = {"record": str(folder / "record"), "sleep_s": sleep_s, "sigma": 3.4}
    labeller = {"class_path": "finetune.labelling.Calculated"}
    labeller["init_args"] = {"calculator": "toy_calculators.Counted", "settings": settings}
    executor = {"class_path": "finetune.labelling.Processes", "init_args": {"workers": 2}}
    (folder / "label.json").write_text(json.dumps({"labeller": labeller, "executor": executor}))
    arguments = ["label", folder / "frames.extxyz", "-c", folder / "label.json", "--output", folder / "out.extxyz"]
    arguments += ["--allow", "toy_calculators"]
    store, rng = folder / "out.extxyz.labels", random.Random(0)

    def finished() -> int:
        return len(list(store.glob("*.extxyz")))

    killed = 0
    for k in range(kills):
        before, running = finished(), process(*arguments, log=folder / "log")
        if k % 4 == 3:  # while it begins
            time.sleep(rng.uniform(0, 3))
        else:  # after it has begun to write
            while running.poll() is None and finished() == before:
                time.sleep(0.01)
            time.sleep(rng.uniform(0, 4 * sleep_s))
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        for path in store.glob("*.extxyz"):  # whole, whenever it was killed
            assert len(ase.io.read(path, ":")) == 1
    assert killed == kills, (folder / "log").read_text()
    assert process(*arguments, log=folder / "log").wait() == 0, (folder / "log").read_text()
    wanted = [identity(atoms) for atoms in ase.io.read(folder / "frames.extxyz", ":")]
    assert [identity(atoms) for atoms in ase.io.read(folder / "out.extxyz", ":")] == wanted
    assert sorted(path.stem for path in store.glob("*.extxyz")) == sorted(wanted)
    computed = lines(folder / "record")
    assert len(set(computed)) == count
    assert len(computed) <= count + 4 * kills  # two workers, each with one in flight and one on its way


def test_a_killed_run_goes_on_without_a_lost_or_repeated_frame(tmp_path, toys):
    kill_often(tmp_path, count=24, kills=2, sleep_s=0.1)


@pytest.mark.slow
def test_twenty_kills_lose_nothing(tmp_path, toys):
    kill_often(tmp_path, count=160, kills=20, sleep_s=0.1)


def test_workers_end_with_the_command_that_is_killed(tmp_path, toys):
    ase.io.write(tmp_path / "frames.extxyz", frames(50), format="extxyz")
    config = {
        "labeller": {
            "class_path": "finetune.labelling.Calculated",
            "init_args": {
                "calculator": "toy_calculators.Counted",
                "settings": {"record": str(tmp_path / "record"), "sleep_s": 0.2},
            },
        },
        "executor": {"class_path": "finetune.labelling.Processes", "init_args": {"workers": 1}},
    }
    (tmp_path / "label.json").write_text(json.dumps(config))
    out = tmp_path / "out.extxyz"
    words = ("label", tmp_path / "frames.extxyz", "-c", tmp_path / "label.json", "--output", out)
    running = process(*words, "--allow", "toy_calculators", log=tmp_path / "log")
    while not lines(tmp_path / "record"):
        assert running.poll() is None, (tmp_path / "log").read_text()
        time.sleep(0.05)
    running.kill()
    running.wait()
    time.sleep(2.0)
    settled = len(lines(tmp_path / "record"))
    time.sleep(1.0)
    assert len(lines(tmp_path / "record")) == settled < 50


def test_collect_computes_nothing_and_writes_what_is_there(tmp_path, toys, capsys):
    given, settings = frames(3), {"record": str(tmp_path / "record")}
    ase.io.write(tmp_path / "frames.extxyz", given, format="extxyz")
    labeller = Calculated("toy_calculators.Counted", settings)
    label(given[:2], labeller, ThreadPoolExecutor(1), tmp_path / "out.extxyz.labels")
    words = arguments(tmp_path, calculator="toy_calculators.Counted", settings=settings)
    assert command(*words, "--collect") == 0
    assert "2 labelled frames" in (said := capsys.readouterr().out)
    assert "1 are still to be computed" in said
    assert len(lines(tmp_path / "record")) == 2
    assert len(ase.io.read(tmp_path / "out.extxyz", ":")) == 2
    other = tmp_path / "other.extxyz"
    assert command(*words[:-1], other, "--known", tmp_path / "out.extxyz") == 0  # one is left to compute
    assert len(lines(tmp_path / "record")) == 3
    assert len(ase.io.read(other, ":")) == 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"calculator": "gpaww.GPAW"}, "gpaww"),
        ({"calculator": "ase.calculators.lj.LennardJones", "setings": {"a": 1}}, "setings"),
    ],
)
def test_mistakes_in_the_config_are_told_without_a_traceback(tmp_path, change, words):
    ase.io.write(tmp_path / "frames.extxyz", frames(1), format="extxyz")
    status = process(*arguments(tmp_path, **change), log=tmp_path / "log").wait()
    said = (tmp_path / "log").read_text()
    assert status != 0
    assert words in said
    assert "Traceback" not in said


def test_a_run_forgets_what_a_killed_one_left_half_written(tmp_path):
    (tmp_path / "0123.extxyz.0123456789ab.partial").write_text("2\nhalf")
    label(frames(1), Calculated("ase.calculators.lj.LennardJones"), ThreadPoolExecutor(1), tmp_path)
    assert not list(tmp_path.glob("*.partial"))


def test_two_runs_do_not_label_into_one_directory_and_reading_disturbs_neither(tmp_path):
    labeller = Calculated("ase.calculators.lj.LennardJones")
    store = Store(tmp_path, labeller)
    with store.alone():
        (tmp_path / "0123.extxyz.0123456789ab.partial").write_text("2\nhalf")
        with pytest.raises(InputError, match="that process"):
            label(frames(1), labeller, ThreadPoolExecutor(1), tmp_path)
        assert report(frames(1), Store(tmp_path, labeller)).missing == [identity(frames(1)[0])]
        assert (tmp_path / "0123.extxyz.0123456789ab.partial").exists()
    assert len(label(frames(1), labeller, ThreadPoolExecutor(1), tmp_path).labelled) == 1
