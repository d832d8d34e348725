"""What a campaign does with labels: of one method, of no frame it is judged by, and never thrown away."""

from __future__ import annotations

import json
import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, fcc100

from finetune import models
from finetune.backbones.ace import ACE
from finetune.calculators import calculator
from finetune.cli.inputs import own_data
from finetune.cli.learn import parsed
from finetune.committee import Committee
from finetune.comparison import Model
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.files import sweep
from finetune.labelling import Calculated, Outcome
from finetune.labelling.store import Store, identity
from finetune.learning import Batch, Learning, Pool, Random, Solved, Stop, Thresholds
from finetune.learning.answering import check_labels, label
from finetune.learning.fanout import fan_out
from finetune.learning.files import read_frames
from finetune.learning.harvesting import records
from finetune.learning.refitting import Job
from finetune.learning.report import page, verdict
from finetune.learning.stopping import Summary
from finetune.learning.subcells import Cutter
from finetune.metrics import errors
from finetune.properties import Properties
from finetune.sampling import Interstitials, Sampler

from .campaigns import ACE_SETTINGS, campaign, labelled, learn, write_files

pytestmark = pytest.mark.filterwarnings("ignore:train and valid share")
ALL = Thresholds(select=0.0, stop=1e9)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("frames"))


def changed(path: Path, source: str, change: Any) -> str:
    """A file whose frames have been changed."""
    frames = read_frames(Path(source))
    for atoms in frames:
        change(atoms)
    ase.io.write(path, frames, format="extxyz")
    return str(path)


@dataclass(frozen=True)
class NotSetUp(Calculated):
    """EMT that works once a file is there, as a code whose potentials have been forgotten."""

    calculator: str = "ase.calculators.emt.EMT"
    needs: Path = Path("pseudopotentials")

    def label(self, atoms: Atoms) -> Outcome:
        if not self.needs.exists():
            return Outcome(None, ["CalculatorSetupError: no pseudopotential"], wall_s=36.0)
        return super().label(atoms)


def test_a_generation_of_which_nothing_could_be_labelled_stays_open(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, labeller=NotSetUp(needs=tmp_path / "there"), stop=Stop(generations=1))
    for _ in range(2):
        with pytest.raises(InputError, match=r"none of its 3 frames could be labelled: CalculatorSetupError: no"):
            learn(tmp_path / "run", given)
        assert not (tmp_path / "run/generation-01/labelled.extxyz").exists()
    (tmp_path / "there").touch()
    learning, reason, told = learn(tmp_path / "run", given)
    assert reason == "1 generations were wanted"
    assert len(read_frames(learning.place(1) / "labelled.extxyz")) == 3
    assert any("generation 1: 3 of 3 labels, 3 in all" in line for line in told)


def test_failures_before_a_stop_are_computed_again_too(files: dict[str, str], tmp_path: Path) -> None:
    broken = NotSetUp(needs=tmp_path / "there")
    given = campaign(files, labeller=broken, stop=Stop(generations=1))
    with pytest.raises(InputError, match="none of its 3 frames"):
        learn(tmp_path / "run", given)
    store = Store(tmp_path / "run/labels", broken)
    store.forget(identity(read_frames(tmp_path / "run/generation-01/selected.extxyz")[0]))  # not come to before a stop
    (tmp_path / "there").touch()
    learning, _, _ = learn(tmp_path / "run", given)
    assert len(read_frames(learning.place(1) / "labelled.extxyz")) == 3


class Queue(ThreadPoolExecutor):
    """A cluster that refuses every job but the first ones."""

    taken = 0

    def submit(self, fn: Any, /, *arguments: Any, **others: Any) -> Future[Any]:
        self.taken -= 1
        if self.taken >= 0:
            return super().submit(fn, *arguments, **others)
        future: Future[Any] = Future()
        future.set_exception(type("JobError", (Exception,), {"__module__": "parsl.jobs.errors"})("no hours are left"))
        return future


def test_a_cluster_that_refuses_jobs_again_and_again_loses_no_label(tmp_path: Path) -> None:
    structures = [bulk("Cu", a=3.5 + 0.1 * k, cubic=True) for k in range(3)]
    given = (structures, Calculated(calculator="ase.calculators.emt.EMT"))
    for taken in (1, 0, 0, 9):
        queue = Queue(1)
        queue.taken = taken
        if taken < 9:
            with pytest.raises(InputError, match=r"2 frames have no answer.*JobError: no hours are left"):
                label(*given, queue, tmp_path / "labels", 1, tmp_path)
        else:
            label(*given, queue, tmp_path / "labels", 1, tmp_path)
    assert len(list((tmp_path / "labels").glob("*.extxyz"))) == 3


def test_a_generation_that_is_given_up_goes_on_without_its_labels(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, labeller=NotSetUp(needs=tmp_path / "there"), stop=Stop(generations=1))
    with pytest.raises(InputError, match=r"make an empty file .*GIVEN_UP"):
        learn(tmp_path / "run", given)
    (tmp_path / "run/generation-01/GIVEN_UP").touch()
    learning, _, told = learn(tmp_path / "run", given)
    assert read_frames(learning.place(1) / "labelled.extxyz") == []
    assert sum("no label for" in line for line in told) == 3
    assert learning.history(1)[-1].cost_h == pytest.approx(3 * 36 / 3600)


@dataclass(frozen=True)
class Slow(Calculated):
    """EMT that says to have taken an hour for four atoms, and fails after ten hours for eight."""

    calculator: str = "ase.calculators.emt.EMT"

    def label(self, atoms: Atoms) -> Outcome:
        if len(atoms) == 8:
            return Outcome(None, ["it has not converged"], wall_s=36000.0)
        outcome = super().label(atoms)
        assert outcome.atoms is not None
        outcome.atoms.info["wall_s"] = 3600.0
        return outcome


def test_hours_are_those_of_all_labels_that_were_asked_for(files: dict[str, str], tmp_path: Path) -> None:
    pool = Pool(files=[files["starts"]], thresholds=ALL)  # 4, 8 and 8 atoms
    given = replace(campaign(files, labeller=Slow(), selector=Batch(apart=1e-6), batch=2), explorer=pool)
    given = replace(given, control="candidates", stop=Stop(hours=20.0))
    learning, reason, _ = learn(tmp_path, given)
    assert reason.startswith("labels have taken")
    asked = {
        arm: {identity(atoms): len(atoms) for atoms in read_frames(learning.place(1, arm) / "selected.extxyz")}
        for arm in (False, True)
    }
    hours = {4: 1.0, 8: 10.0}
    both = asked[False] | asked[True]
    for arm in (False, True):
        one = learning.history(1, arm)[-1]
        assert one.cost_h == pytest.approx(sum(hours[size] for size in asked[arm].values()))
        assert one.spent_h == pytest.approx(sum(hours[size] for size in both.values()))


def test_labels_of_two_methods_do_not_mix(files: dict[str, str], tmp_path: Path) -> None:
    own = campaign(files).labeller.method_hash()

    def of(name: str, part: str) -> str:
        return changed(tmp_path / f"{part}-{name}.extxyz", files[part], lambda a: a.info.update(label_method=name))

    with ThreadPoolExecutor(1) as executor:
        for train, valid, match in (
            (of("mother", "train"), of("mother", "valid"), "train: mother; valid: mother"),
            (of(own, "train"), files["valid"], "valid: unsaid"),
        ):
            given = replace(campaign(files), train=[train], valid=[valid])
            with pytest.raises(InputError, match=f"do not mix: the labeller's is {own}, but not that of {match}"):
                Learning(given, tmp_path / "mixed", executor)
            assert not (tmp_path / "mixed").exists()
            Learning(replace(given, relabel=True), tmp_path / train[-9:], executor)
        told: list[str] = []
        older = campaign(files).labeller.method_hash("emt 1.0")
        assert older == own  # ASE's own calculators have no version of their own
        given = replace(campaign(files), train=[of(own, "train")], valid=[of(own, "valid")])
        Learning(given, tmp_path / "same", executor, told.append)
        assert told == []
        Learning(campaign(files), tmp_path / "unsaid", executor, told.append)
        assert "do not say how they were labelled" in told[0]


@dataclass(frozen=True)
class Versioned(Calculated):
    """EMT with a version of its own."""

    calculator: str = "ase.calculators.emt.EMT"
    version: str = "2.0"

    def method(self) -> dict[str, Any]:
        return {"calculator": self.calculator, "code": f"emt {self.version}"}


def test_another_version_of_the_code_is_told_and_another_setting_refused(files: dict[str, str], tmp_path: Path) -> None:
    frames = read_frames(Path(files["train"]))
    for atoms in frames:
        atoms.info |= {"label_method": Versioned(version="1.0").method_hash(), "label_code": "emt 1.0"}
    ase.io.write(tmp_path / "old.extxyz", frames, format="extxyz")
    old = read(str(tmp_path / "old.extxyz"))
    parts = {"train": old[:4], "valid": old[4:]}
    assert "another version of the code" in str(check_labels(parts, Versioned()))
    assert check_labels(parts, Versioned(version="1.0")) is None
    with pytest.raises(InputError, match="do not mix"):
        check_labels(parts, Calculated(calculator="ase.calculators.lj.LennardJones"))


def test_a_frame_that_is_judged_by_is_never_learned_from_whatever_its_group(
    files: dict[str, str], tmp_path: Path
) -> None:
    def bare(atoms: Atoms) -> None:
        atoms.info.clear()
        atoms.calc = None
        del atoms.arrays["REF_forces"]

    twin = changed(tmp_path / "pool.extxyz", files["valid"], bare)
    pool = Pool(files=[twin, files["starts"]], thresholds=ALL)
    given = replace(campaign(files, stop=Stop(generations=1), batch=6, selector=Random(apart=0.0)), explorer=pool)
    learning, _, told = learn(tmp_path / "run", given)
    judged = {identity(atoms) for atoms in read_frames(Path(files["valid"]))}
    trained = {identity(atoms) for atoms in read_frames(learning.place(1) / "train.extxyz")}
    assert len(trained) == 9
    assert not judged & trained
    assert any(line.startswith("3 structures begin no exploration") for line in told)


def coefficients(path: Path) -> torch.Tensor:
    return models.load(path).get_parameter("potential.coefficients").detach()


@pytest.mark.parametrize(("members", "score"), [(1, "gamma"), (2, "gamma"), (2, "forces_std")])
def test_a_single_member_and_the_one_that_is_graded_see_all_frames(
    files: dict[str, str], tmp_path: Path, members: int, score: str
) -> None:
    steered = {"thresholds": Thresholds(score=score, select=0.01, stop=1e6), "runs": 1}
    given = campaign(files, steered, members=members, stop=Stop(generations=0))
    learning, _, _ = learn(tmp_path, given)
    [fit] = given.fit
    assert isinstance(fit, Solved)
    job = Job(Path(files["train"]), Path(files["valid"]), None, 0, (0, 0, 0, 6))
    replace(fit, bootstrap=False).fit(job, tmp_path / "whole.ckpt")
    found = [coefficients(learning.place(0) / f"member-{k}.ckpt") for k in range(members)]
    same = [torch.allclose(one, coefficients(tmp_path / "whole.ckpt"), rtol=0, atol=1e-9) for one in found]
    assert same == [score == "gamma", False][:members]


@dataclass(frozen=True, kw_only=True)
class Nothing(Sampler):
    """Makes nothing of any start."""

    def frames(self, structures: Any, context: Any) -> Any:
        """None."""
        return iter(())


@pytest.mark.parametrize("change", [Interstitials(), Nothing()], ids=["slab", "nothing"])
def test_a_start_that_cannot_be_changed_costs_its_run_only(
    files: dict[str, str], tmp_path: Path, change: Sampler
) -> None:
    slab = fcc100("Cu", (2, 2, 2), vacuum=None)
    slab.pbc = (True, True, False)
    slab.cell[2] = 0.0
    slab.info = {"group": "slab"}
    ase.io.write(tmp_path / "slab.extxyz", slab, format="extxyz")
    dynamics = {"changes": (change,), "starts": [str(tmp_path / "slab.extxyz")], "runs": 6}
    learning, _, _ = learn(tmp_path / "run", campaign(files, dynamics, stop=Stop(generations=1)))
    runs = records(learning.place(1) / "explored")
    hit = [run for run in runs if run["change"]]
    assert hit
    assert all(run["guard"] == "start" and type(change).__name__ in run["message"] for run in hit)


def test_what_would_fail_late_is_refused_at_once(files: dict[str, str], tmp_path: Path) -> None:
    def without_forces(atoms: Atoms) -> None:
        atoms.info["REF_energy"] = float(labelled(atoms).info["REF_energy"])
        atoms.calc = None
        del atoms.arrays["REF_forces"]

    blind = changed(tmp_path / "blind.extxyz", files["valid"], without_forces)
    with ThreadPoolExecutor(1) as executor:
        for given, match in (
            (campaign(files, reactants=("Cu", "Xx")), "Xx"),
            (campaign(files, reactants=("Cu", "Cu2")), "one composition"),
            (campaign(files, valid=[blind]), "no validation frame has forces"),
        ):
            with pytest.raises(InputError, match=match):
                Learning(given, tmp_path / "run", executor)
        assert not (tmp_path / "run").exists()
        Learning(campaign(files, valid=[blind], relabel=True), tmp_path / "run", executor)  # it will have some
    with pytest.raises(InputError, match="apart is -1"):
        Batch(apart=-1.0)


def test_other_test_frames_are_refused_and_some_may_be_added(files: dict[str, str], tmp_path: Path) -> None:
    frames = [labelled(bulk("Cu", a=a, cubic=True)) for a in (3.5, 3.7)]
    for k in range(2):
        ase.io.write(tmp_path / f"test-{k}.extxyz", frames[k], format="extxyz")
    start = campaign(files, stop=Stop(generations=0))
    learn(tmp_path / "run", start)
    learn(tmp_path / "run", replace(start, test=[str(tmp_path / "test-0.extxyz")]))
    with pytest.raises(InputError, match="begun with other test frames"):
        learn(tmp_path / "run", replace(start, test=[str(tmp_path / "test-1.extxyz")]))


def test_one_file_is_divided_by_its_groups(files: dict[str, str], tmp_path: Path) -> None:
    given = replace(campaign(files, stop=Stop(generations=0)), valid=None)
    learning, _, _ = learn(tmp_path, given)
    parts = {name: read(str(tmp_path / f"{name}.extxyz")) for name in ("valid", "test")}
    parts["train"] = read(str(learning.place(0) / "train.extxyz"))
    groups = {name: {frame.group for frame in frames} for name, frames in parts.items()}
    whole = {frame.group for frame in read(files["train"])}
    assert set.union(*groups.values()) == whole
    assert sum(map(len, groups.values())) == len(whole)
    assert all(groups.values())


def test_own_training_frames_leave_out_what_a_config_judges_by(root: Path, files: dict[str, str]) -> None:
    config = ["-c", str(root / "configs/learn/interface.yaml"), "--directory", "run"]
    mine, _ = parsed([*config, "--train", files["train"]])
    assert (mine["valid"], mine["test"]) == (None, None)
    both, _ = parsed([*config, "--train", files["train"], "--valid", files["valid"]])
    assert (both["valid"], both["test"]) == (files["valid"], None)
    assert parsed(config)[0]["test"] == "data/interface/test.extxyz"


@pytest.mark.filterwarnings("default")  # Parsl leaves sockets open
def test_the_documented_campaign_of_ones_own_is_understood_as_it_says(root: Path, tmp_path: Path) -> None:
    text = (root / "docs/how-to/active-learning.md").read_text()
    [mine] = re.findall(r"```yaml\n(# mine.yaml.*?)```", text, flags=re.DOTALL)
    (tmp_path / "mine.yaml").write_text(mine)
    stacked = [str(root / f"configs/{name}.yaml") for name in ("learn/interface", "label/vasp", "label/slurm-mpi")]
    words = [word for name in (*stacked, str(tmp_path / "mine.yaml")) for word in ("-c", name)]
    options, _ = parsed([*words, "--directory", "runs/mine"])
    assert options["train"] == "my/frames.extxyz"
    assert (options["valid"], options["test"], options["control"]) == (None, None, None)
    assert options["labeller"].calculator == "ase.calculators.vasp.Vasp"
    assert options["fit"].potential.elements == {3, 8, 40, 57}
    named = own_data([*words, "--valid=judges.extxyz"], "--")
    assert named[-1] == "--test=null"
    assert own_data(words[:2], "--") == words[:2]
    assert own_data(["fit", "-c", str(root / "configs/base.yaml")], "--data.")[2:] == [str(root / "configs/base.yaml")]


def large(path: Path) -> str:
    """Cells of copper and aluminium that are too large for the cutter below."""
    frames = []
    for seed in range(3):
        atoms = bulk("Cu", a=3.8, cubic=True).repeat((4, 4, 5))
        atoms.numbers[160:] = 13
        atoms.rattle(0.05, seed=seed)
        atoms.info["group"] = f"large-{seed}"
        frames.append(atoms)
    ase.io.write(path, frames, format="extxyz")
    return str(path)


def test_a_control_out_of_all_that_was_explored_is_cut_as_well(files: dict[str, str], tmp_path: Path) -> None:
    pool = Pool(files=[large(tmp_path / "large.extxyz")], thresholds=ALL)
    cutter = Cutter(atoms=120, radius_A=3.0, centres=2, closest=0.6)
    given = campaign(files, control="explored", cutter=cutter, stop=Stop(generations=1), batch=3)
    learning, _, told = learn(tmp_path / "run", replace(given, explorer=pool))
    for arm in (False, True):
        frames = read_frames(learning.place(1, arm) / "labelled.extxyz")
        assert len(frames) == 3
        assert all(len(atoms) <= 120 and "Subcell" in atoms.info["made_by"] for atoms in frames)
    assert not any("the control gets" in line for line in told)
    assert not (learning.place(1) / "gathered").exists()


def test_the_report_does_not_compare_arms_of_unequal_size(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, control="spare", fraction=0.9, stop=Stop(generations=1))
    learning, _, told = learn(tmp_path / "run", given)
    assert any("1 spare frames for the control" in line for line in told)
    text = page(learning, 1)
    assert "1 generations are not compared, since an arm has fewer labels there" in text
    assert "below that of random selection" not in text
    assert learning.history(1, control=True)[-1].cost_h == 0.0


def test_the_verdict_counts_generations_and_asks_the_test_frames() -> None:
    def arm(*rmse: float, labels: int = 20) -> list[Summary]:
        return [Summary(k, k * labels, 0.0, float(error)) for k, error in enumerate(rmse)]

    history = {"selected": arm(300, 200, 150, 140), "random control": arm(300, 210, 140, 150)}

    def tested(scale: float, scatter: float = 0.0) -> list[dict[str, Any]]:
        """Errors of six frames of six groups, proportional to `scale` but for a scatter."""
        rng = np.random.default_rng(round(1e3 * scale))
        size = scale * np.linspace(0.5, 1.5, 6) * (1 + scatter * rng.normal(size=6))
        forces = torch.from_numpy(np.repeat(size, 3).reshape(6, 3))
        zero, three = torch.zeros(6), torch.zeros(6, 3, 3)
        pair = Properties(zero, forces, three), Properties(zero, torch.zeros(6, 3), three)
        found = errors(*pair, torch.ones(6), ["all"] * 6, torch.full((6,), 3), list("abcdef"))
        return [{"test": found.json()}]

    text = verdict(history, {"selected": tested(0.14), "random control": tested(0.175)})
    assert "below that of random selection in 2 of 3 generations." in text
    assert "140.0 meV/Å, 175.0 with random selection: difference -35.0" in text
    assert "over 6 groups, better than random selection" in text
    text = verdict(history, {"selected": tested(0.175), "random control": tested(0.14)})
    assert "difference +35.0" in text
    assert "worse than random selection" in text
    text = verdict(history, {"selected": tested(0.174, 0.3), "random control": tested(0.175, 0.3)})
    assert "not distinguishable" in text
    history["random control"] = arm(300, 210, 140, 150, labels=17)
    text = verdict(history, {name: [{}] for name in history})
    assert "3 generations are not compared" in text
    assert "below that" not in text
    assert "test frames" not in text


def test_the_verdict_of_an_older_campaign_has_no_interval() -> None:
    history = {name: [Summary(k, 20 * k, 0.0, 100.0) for k in range(2)] for name in ("selected", "random control")}
    row = {"all": {"forces_mae": 176.1}, "family": {}, "element": {}, "frames": 46, "energy_shifted": False}
    text = verdict(history, {name: [{"test": row}] for name in history})
    assert "176.1 meV/Å, 176.1 with random selection; no interval over groups" in text


def test_a_campaign_is_a_model_its_last_finished_committee(files: dict[str, str], tmp_path: Path) -> None:
    learning, _, _ = learn(tmp_path, campaign(files, stop=Stop(generations=1)))
    atoms = bulk("Cu", a=3.7, cubic=True)
    wanted = calculator([learning.place(1) / f"member-{k}.ckpt" for k in range(2)])
    wanted.calculate(atoms)
    trained = {frame.structure_hash[:16] for frame in read(str(learning.place(1) / "train.extxyz"))}
    for place in (tmp_path, learning.place(1)):
        found = models.load(place)
        assert isinstance(found, Committee)
        own = calculator(str(place))
        own.calculate(atoms)
        np.testing.assert_array_equal(own.results["forces_std"], wanted.results["forces_std"])
        assert Model(str(place)).fitted_to().train == trained
    (learning.place(1) / "errors.json").unlink()  # its fit is not finished
    first = torch.cat([p.detach().flatten() for p in models.load(tmp_path).parameters()])
    begun = torch.cat([p.detach().flatten() for p in models.load(learning.place(0)).parameters()])
    assert torch.equal(first, begun)


def test_what_a_killed_command_left_half_written_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "labels.inputs/abc.0123456789ab.partial").mkdir(parents=True)
    (tmp_path / "labels.inputs/abc.0123456789ab.partial/POSCAR").touch()
    (tmp_path / "labels.inputs/whole").mkdir()
    (tmp_path / "train.extxyz.0123456789ab.partial").touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["labels.inputs", "whole"]


def test_a_cluster_that_gives_up_is_told_in_a_line_and_a_bug_is_not() -> None:
    class Failing(ThreadPoolExecutor):
        """Its work fails with an error of this class."""

        error: type[Exception]

        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.set_exception(self.error("cannot submit:\n\nsbatch: not found"))
            return future

    foreign = type("JobError", (Exception,), {"__module__": "parsl.jobs.errors"})
    with Failing(1) as executor:
        executor.error = foreign
        with pytest.raises(InputError, match=r"gave up \(JobError: cannot submit: ... sbatch: not found\)"):
            fan_out(executor, [dict], "work")
        executor.error = ZeroDivisionError
        with pytest.raises(ZeroDivisionError):
            fan_out(executor, [dict], "work")


def test_a_potential_whose_file_changed_is_another_campaign(files: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "start.ckpt"
    models.save(models.build(ACE(**ACE_SETTINGS).config()), path)
    given = campaign(files, fit=[Solved(potential=str(path))])
    with ThreadPoolExecutor(1) as executor:
        Learning(given, tmp_path / "run", executor)
        Learning(given, tmp_path / "run", executor)
        other = ACE(**ACE_SETTINGS)
        torch.nn.init.normal_(other.coefficients)
        models.save(other, path)
        with pytest.raises(InputError, match="another campaign: weights differ"):
            Learning(given, tmp_path / "run", executor)
        record = tmp_path / "run/settings.json"
        settings = json.loads(record.read_text())
        del settings["weights"]  # as in directories of earlier days
        record.write_text(json.dumps(settings))
        Learning(given, tmp_path / "run", executor)
    (tmp_path / "run/generation-00").mkdir()
    models.save(other, tmp_path / "run/generation-00/member-0.ckpt")
    (tmp_path / "run/generation-00/errors.json").touch()
    weights = [Solved(potential=str(place)).weights() for place in (tmp_path / "run", path, "chgnet:0.3.0")]
    assert weights[0] == weights[1] != weights[2] == ""
