"""A campaign from its first to its last generation, and what it does where something goes wrong."""

from __future__ import annotations

import csv
import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from lightning.pytorch.loggers import CSVLogger

from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.ace import ACE
from finetune.cli.learn import parsed
from finetune.committee import Committee
from finetune.comparison import Model
from finetune.data.frames import fitted_to
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.evaluation import evaluate
from finetune.files import write_frames
from finetune.labelling import Calculated, Outcome, dask
from finetune.labelling.store import identity
from finetune.learning import Batch, Learning, Pool, Solved, Stop, Thresholds, Trained
from finetune.learning.files import read_frames
from finetune.learning.grades import SHARED
from finetune.learning.harvesting import records, uncertain_share
from finetune.learning.refitting import Job, drawn
from finetune.learning.report import write_report
from finetune.learning.tracking import track
from finetune.sampling import Strained
from finetune.uncertainty import calibrate
from finetune.uncertainty.calibration import ENOUGH_GROUPS

from .campaigns import ACE_SETTINGS, campaign, crystal, labelled, learn, write_files
from .commands import THEIR_WARNINGS

pytestmark = pytest.mark.filterwarnings("ignore:train and valid share")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return write_files(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def finished(files: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A campaign of two generations with a control arm and reports."""
    directory = tmp_path_factory.mktemp("campaign") / "run"
    changed = {"changes": (Strained(copies=1, volume=(0.95, 1.05)),)}
    learning, reason, _ = learn(directory, campaign(files, changed, control="candidates"))
    assert reason == "2 generations were wanted"
    for n in range(3):
        write_report(learning, n)
    return directory


def frames_of(path: Path) -> list[Atoms]:
    return list(ase.io.iread(path, ":", format="extxyz"))


def test_every_generation_leaves_its_files_and_its_labels_are_the_teachers(finished: Path) -> None:
    for n in (1, 2):
        for place in (finished / f"generation-{n:02d}", finished / f"generation-{n:02d}/control"):
            selected, answered = (frames_of(place / f"{name}.extxyz") for name in ("selected", "labelled"))
            assert len(selected) == len(answered) == 3
            for asked, answer in zip(selected, answered, strict=True):
                np.testing.assert_allclose(answer.positions, asked.positions, atol=1e-8)
                np.testing.assert_allclose(answer.arrays["REF_forces"], labelled(asked).arrays["REF_forces"], atol=1e-6)
                assert answer.info["generation"] == n
            assert {path.name for path in place.glob("member-*.ckpt")} == {"member-0.ckpt", "member-1.ckpt"}


def test_training_frames_are_all_that_was_labelled_before(finished: Path) -> None:
    for arm in ("", "/control"):
        sizes = [len(frames_of(finished / f"generation-{n:02d}{arm if n else ''}/train.extxyz")) for n in range(3)]
        assert sizes == [6, 9, 12]
    first, last = (frames_of(finished / f"generation-{n:02d}/train.extxyz") for n in (0, 2))
    assert [identity(atoms) for atoms in last[:6]] == [identity(atoms) for atoms in first]
    place = finished / "generation-02"
    fitted = Model([str(place / f"member-{k}.ckpt") for k in range(2)]).fitted_to()
    assert fitted.train == {frame.structure_hash[:16] for frame in read(place / "train.extxyz")}
    assert len(fitted.train) == 12
    assert fitted.valid == {frame.structure_hash[:16] for frame in read(finished / "valid.extxyz")}


def test_a_control_of_spare_frames_costs_no_label(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, control="spare", fraction=0.5)
    learning, _, told = learn(tmp_path / "run", given)
    whole = {identity(atoms): atoms for atoms in frames_of(Path(files["train"]))}
    begun = {identity(atoms) for atoms in frames_of(learning.place(0) / "train.extxyz")}
    assert 0 < len(begun) < len(whole)
    had = set(begun)
    for n in (1, 2):
        selected, taken = (frames_of(learning.place(n, arm) / "labelled.extxyz") for arm in (False, True))
        assert len(taken) == min(len(selected), len(whole) - len(had))
        for atoms in taken:
            assert identity(atoms) not in had
            np.testing.assert_allclose(atoms.arrays["REF_forces"], whole[identity(atoms)].arrays["REF_forces"])
            had.add(identity(atoms))
        assert {identity(atoms) for atoms in frames_of(learning.place(n, True) / "train.extxyz")} == had
    asked = {identity(atoms) for n in (1, 2) for atoms in frames_of(learning.place(n) / "selected.extxyz")}
    assert {path.stem for path in (tmp_path / "run/labels").glob("*.extxyz")} == asked
    assert any("spare frames for the control" in line for line in told)
    with pytest.raises(InputError, match="fraction below 1"):
        learn(tmp_path / "whole", campaign(files, control="spare"))


def test_members_differ_and_their_committee_has_the_errors_that_are_told(finished: Path) -> None:
    place = finished / "generation-02"
    members = [models.load(place / f"member-{k}.ckpt") for k in range(2)]
    weights = [dict(member.named_parameters())["potential.coefficients"] for member in members]
    assert (weights[0] - weights[1]).abs().max() > 1e-6
    told = json.loads((place / "errors.json").read_text())["valid"]["all"]
    found = evaluate(Committee(members), read(finished / "valid.extxyz"))
    assert found.json()["all"]["forces_rmse"] == pytest.approx(told["forces_rmse"], rel=1e-9)


def test_candidates_lie_between_the_thresholds_and_carry_the_committees_spread(finished: Path) -> None:
    place = finished / "generation-01"
    members = [models.load(finished / f"generation-00/member-{k}.ckpt") for k in range(2)]
    committee = Committee(members)
    candidates = frames_of(place / "candidates.extxyz")
    assert len(candidates) > 3
    for atoms in candidates[:4]:
        spread = committee(committee.collate([committee.graph(atoms)])).forces_std
        assert spread is not None
        assert atoms.info["score"] == pytest.approx(float(spread.norm(dim=1).max()), abs=2e-6)
        assert 0.001 <= atoms.info["score"] < 20


def test_selection_says_why(finished: Path) -> None:
    for rank, atoms in enumerate(frames_of(finished / "generation-01/selected.extxyz")):
        assert atoms.info["selector"] == "Batch"
        assert atoms.info["rank"] == rank
        assert atoms.info["distance"] > 0.02
        assert 0 <= atoms.info["front"] <= 1
        assert " > md 600 K at " in atoms.info["made_by"]
    control = frames_of(finished / "generation-01/control/selected.extxyz")
    assert {atoms.info["selector"] for atoms in control} == {"Random"}


def test_survival_is_recorded(finished: Path) -> None:
    runs = records(finished / "generation-01/explored")
    assert [run["name"] for run in runs] == ["run-000", "run-001"]
    for run in runs:
        assert run["planned_ps"] == 0.06
        assert run["reached_ps"] == pytest.approx(0.06)
        assert run["frames"] == 7
        assert run["guard"] is None
    assert not list(finished.rglob("*.run"))


def test_the_uncertain_share_counts_what_a_stop_cut_off() -> None:
    whole = {"planned_ps": 2.0, "reached_ps": 2.0, "frames": 4, "uncertain": 1, "absurd": 0}
    stopped = {"planned_ps": 2.0, "reached_ps": 0.5, "frames": 2, "uncertain": 1, "absurd": 0}
    # certain: 1.5 of 2 ps, and 0.25 of 2 ps
    assert uncertain_share([whole, stopped]) == pytest.approx(1 - 1.75 / 4)
    assert uncertain_share([{"frames": 3, "uncertain": 3, "absurd": 0}]) is None


def test_the_report_opens_without_a_network_and_shows_both_arms(finished: Path) -> None:
    text = (finished / "generation-02/report.html").read_text()
    assert text.count("<svg") == 5
    assert not re.search(r"""(?:src|href)=["']https?:""", text)
    assert "random control" in text
    assert re.search(r"below that of random selection in [012] of 2 generations", text)
    for atoms in frames_of(finished / "generation-02/selected.extxyz"):
        assert atoms.get_chemical_formula() in text
    assert "run-001" in text


def test_a_logger_is_told_the_figures_of_both_arms(files: dict[str, str], finished: Path, tmp_path: Path) -> None:
    changed = {"changes": (Strained(copies=1, volume=(0.95, 1.05)),)}
    with ThreadPoolExecutor(1) as executor:
        learning = Learning(campaign(files, changed, control="candidates"), finished, executor)
    logger = CSVLogger(tmp_path)
    track(learning, 2, logger)
    logger.save()
    [row] = csv.DictReader((Path(logger.log_dir) / "metrics.csv").read_text().splitlines())
    errors = json.loads((finished / "generation-02/control/errors.json").read_text())["valid"]["all"]
    assert row["step"] == "2"
    assert float(row["selected/labels"]) == 6.0
    assert float(row["control/valid_forces_rmse"]) == pytest.approx(errors["forces_rmse"])


@pytest.mark.parametrize(
    ("score", "least", "most"), [("gamma", 0.0, 1.002), ("forces_error", 1e-4, 10.0)], ids=["gamma", "forces_error"]
)
def test_other_scores_steer_a_campaign(
    files: dict[str, str], tmp_path: Path, score: str, least: float, most: float
) -> None:
    steered = {"thresholds": Thresholds(score=score, select=0.01, stop=1e6), "runs": 1}
    learning, _, _ = learn(tmp_path, campaign(files, steered, stop=Stop(generations=1)))
    graded = models.load(learning.place(0) / "graded.ckpt")
    for atoms in frames_of(learning.place(1) / "candidates.extxyz")[:3]:
        said = graded(graded.collate([graded.graph(atoms)]))
        assert atoms.info["score"] == pytest.approx(float(getattr(said, score).max()), rel=1e-4)
    for atoms in frames_of(learning.place(0) / "train.extxyz"):
        assert least <= float(getattr(graded(graded.collate([graded.graph(atoms)])), score).max()) <= most


def many_groups(directory: Path, files: dict[str, str], groups: int) -> dict[str, str]:
    """The files with other validation frames: two of each group."""
    frames = [labelled(crystal("Cu", 0.1, 100 + k)) for k in range(2 * groups)]
    for k, atoms in enumerate(frames):
        atoms.info["group"] = f"group {k % groups}"
    ase.io.write(directory / "groups.extxyz", frames, format="extxyz")
    return {**files, "valid": str(directory / "groups.extxyz")}


def test_errors_of_a_campaign_are_calibrated_on_validation_groups_that_no_fit_has_seen(
    files: dict[str, str], tmp_path: Path
) -> None:
    many = many_groups(tmp_path, files, ENOUGH_GROUPS)
    steered = {"thresholds": Thresholds(score="forces_error", select=0.01, stop=1e6), "runs": 1}
    settings = campaign(many, steered, stop=Stop(generations=1))
    learning, _, told = learn(tmp_path / "run", settings)
    fits, calibration = (read(tmp_path / f"run/valid-{use}.extxyz") for use in ("fits", "calibration"))
    assert not {frame.group for frame in fits} & {frame.group for frame in calibration}
    assert len(fits) == len(calibration) == ENOUGH_GROUPS
    hashes = {frame.structure_hash for frame in read(many["valid"])}
    assert {frame.structure_hash for frame in (*fits, *calibration)} == hashes
    for n in (0, 1):
        members = models.load(learning.place(n))
        graded = models.load(learning.place(n) / "graded.ckpt")
        assert members.training_data.valid == fitted_to([], fits).valid
        expected = calibrate(members, calibration).calibrations[29]
        found = graded.calibrations[29]
        assert found.atoms == expected.atoms == sum(len(frame.atoms) for frame in calibration)
        torch.testing.assert_close(found.quantiles, expected.quantiles)
        errors = json.loads((learning.place(n) / "errors.json").read_text())
        assert errors["valid"]["frames"] == 2 * ENOUGH_GROUPS  # the table of errors is of all of them
    assert SHARED not in told
    parts = [(tmp_path / f"run/valid-{use}.extxyz").read_bytes() for use in ("fits", "calibration")]
    learn(tmp_path / "run", replace(settings, stop=Stop(generations=2)))  # goes on with the same division
    assert parts == [(tmp_path / f"run/valid-{use}.extxyz").read_bytes() for use in ("fits", "calibration")]


def test_a_campaign_of_few_validation_groups_reports_once_that_its_calibration_shares_them(
    files: dict[str, str], tmp_path: Path
) -> None:
    few = many_groups(tmp_path, files, ENOUGH_GROUPS - 1)
    steered = {"thresholds": Thresholds(score="forces_error", select=0.01, stop=1e6), "runs": 1}
    learning, _, told = learn(tmp_path / "run", campaign(few, steered, stop=Stop(generations=1)))
    assert told.count(SHARED) == 1
    assert not (tmp_path / "run/valid-calibration.extxyz").exists()
    graded = models.load(learning.place(1) / "graded.ckpt")
    assert graded.calibrations[29].atoms == sum(len(frame.atoms) for frame in read(few["valid"]))
    plain = campaign(few, {"runs": 1}, stop=Stop(generations=0))  # the spread of a committee needs no calibration
    assert SHARED not in learn(tmp_path / "plain", plain)[2]


def test_another_seed_or_teacher_needs_another_directory(files: dict[str, str], finished: Path) -> None:
    with pytest.raises(InputError, match="another campaign: explorer, control, seed differ"):
        learn(finished, campaign(files, seed=1))


def test_starts_that_changed_are_refused_and_directories_that_did_not_note_them_go_on(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    with ThreadPoolExecutor(1) as executor:
        Learning(campaign(files), tmp_path / "run", executor)
        starts = frames_of(Path(files["starts"]))
        starts[0].rattle(0.01, seed=1)
        ase.io.write(files["starts"], starts, format="extxyz")
        with pytest.raises(InputError, match="another campaign: pool differ"):
            Learning(campaign(files), tmp_path / "run", executor)
        record = tmp_path / "run/settings.json"
        settings = json.loads(record.read_text())
        del settings["pool"]
        record.write_text(json.dumps(settings))
        Learning(campaign(files), tmp_path / "run", executor)


@dataclass(frozen=True)
class Fussy(Calculated):
    """A teacher that does not converge for frames of eight atoms."""

    calculator: str = "ase.calculators.emt.EMT"

    def label(self, atoms: Atoms) -> Outcome:
        if len(atoms) == 8:
            return Outcome(None, ["the calculator says that it has not converged"], wall_s=1.0)
        return super().label(atoms)


def test_a_label_that_does_not_converge_is_told_and_not_asked_for_again(files: dict[str, str], tmp_path: Path) -> None:
    pool = Pool(files=[files["starts"]], thresholds=Thresholds(select=0.0, stop=1e9))  # 4, 8 and 8 atoms
    changes: dict[str, Any] = {"labeller": Fussy(), "selector": Batch(apart=1e-6), "stop": Stop(generations=2)}
    settings = replace(campaign(files, **changes), explorer=pool)
    learning, _, told = learn(tmp_path, settings)
    asked = [read_frames(learning.place(n) / "selected.extxyz") for n in (1, 2)]
    assert sorted(len(atoms) for atoms in asked[0]) == [4, 8, 8]
    assert [len(atoms) for atoms in read_frames(learning.place(1) / "labelled.extxyz")] == [4]
    assert asked[1] == []
    assert [one.refused for one in learning.history(2)] == [0, 2, 0]
    assert sum("no label for" in line and "not converged" in line for line in told) == 2


def test_an_exploded_run_is_recorded_and_the_others_go_on(files: dict[str, str], tmp_path: Path) -> None:
    hot = {"temperatures_K": (600.0, 3e5), "runs": 6}
    learning, _, _ = learn(tmp_path, campaign(files, hot, stop=Stop(generations=1)))
    runs = records(learning.place(1) / "explored")
    exploded = [run for run in runs if run["temperature_K"] == 3e5]
    calm = [run for run in runs if run["temperature_K"] == 600.0]
    assert exploded
    assert calm
    assert all(run["guard"] for run in exploded)
    assert all(run["reached_ps"] < 0.06 for run in exploded)
    assert all(run["guard"] is None for run in calm)
    assert len(read_frames(learning.place(1) / "labelled.extxyz")) == 3


def test_a_start_that_is_absurd_costs_its_run_only(files: dict[str, str], tmp_path: Path) -> None:
    starts = frames_of(Path(files["starts"]))
    starts[0].positions[1] = starts[0].positions[0] + 0.3
    ase.io.write(tmp_path / "starts.extxyz", starts, format="extxyz")
    changed = {"starts": [str(tmp_path / "starts.extxyz")], "runs": 3}
    learning, _, _ = learn(tmp_path / "run", campaign(files, changed, stop=Stop(generations=1)))
    ends = {run["start"]: run["guard"] for run in records(learning.place(1) / "explored")}
    assert ends == {"starts@0": "start", "starts@1": None, "starts@2": None}


def test_structures_of_held_out_groups_begin_no_run(files: dict[str, str], tmp_path: Path) -> None:
    starts = frames_of(Path(files["starts"]))
    starts[1].info["group"] = frames_of(Path(files["valid"]))[2].info["group"]
    ase.io.write(tmp_path / "starts.extxyz", starts, format="extxyz")
    changed = {"starts": [str(tmp_path / "starts.extxyz")], "runs": 6}
    learning, _, told = learn(tmp_path / "run", campaign(files, changed, stop=Stop(generations=1)))
    begun = [run["start"] for run in records(learning.place(1) / "explored")]
    assert len(begun) == 6
    assert set(begun) == {"starts@0", "starts@2"}
    assert any(line.startswith("1 structures begin no exploration") for line in told)
    with pytest.raises(InputError, match=r"all 3 structures of .*starts.extxyz are validation or test frames"):
        Pool(files=[str(tmp_path / "starts.extxyz")]).tasks(0, 1, {atoms.info["group"] for atoms in starts})


def test_without_candidates_the_members_stay_and_the_campaign_stops(files: dict[str, str], tmp_path: Path) -> None:
    certain = {"thresholds": Thresholds(select=19.0, stop=20.0)}
    learning, reason, _ = learn(tmp_path, campaign(files, certain, stop=Stop(patience=1)))
    assert reason == "1 generations have found nothing to ask for"
    first, second = (models.load(learning.place(n) / "member-0.ckpt").state_dict() for n in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert read_frames(learning.place(1) / "labelled.extxyz") == []
    write_report(learning, 1)
    assert "Nothing was worth asking for" in (learning.place(1) / "report.html").read_text()


def test_a_budget_of_labels_is_kept_to_the_last_one(files: dict[str, str], tmp_path: Path) -> None:
    learning, reason, _ = learn(tmp_path, campaign(files, stop=Stop(labels=4)))
    assert reason == "4 labels are there, 4 was the budget"
    assert [one.labels for one in learning.history(2)] == [0, 3, 4]


def test_a_pool_is_looked_at_instead_of_dynamics_and_relabelled_by_a_teacher(
    files: dict[str, str], tmp_path: Path
) -> None:
    shifted = frames_of(Path(files["train"]))
    for atoms in shifted:
        atoms.info["REF_energy"] += 7.0
    ase.io.write(tmp_path / "train.extxyz", shifted, format="extxyz")
    pool = Pool(files=[files["starts"]], part=2, thresholds=Thresholds(select=0.0, stop=1e9))
    settings = replace(campaign(files, relabel=True, stop=Stop(generations=1)), explorer=pool)
    learning, _, _ = learn(tmp_path / "run", replace(settings, train=[str(tmp_path / "train.extxyz")]))
    energies = [atoms.info["REF_energy"] for atoms in frames_of(learning.place(0) / "train.extxyz")]
    true = [labelled(atoms).info["REF_energy"] for atoms in frames_of(Path(files["train"]))]
    np.testing.assert_allclose(energies, true, atol=1e-6)
    assert len(frames_of(learning.place(1) / "labelled.extxyz")) == 2
    assert learning.history(1)[-1].uncertain is None


def test_replay_keeps_all_new_frames_and_a_share_of_the_old_ones(files: dict[str, str]) -> None:
    frames = read(files["train"])
    for k, frame in enumerate(frames):
        frame.atoms.info["generation"] = 0 if k < 4 else 2
    job = Job(Path(files["train"]), Path(files["valid"]), Path("before"), 2, (0, 2, 0))
    found = drawn(frames, job, bootstrap=False, replay=0.5)
    assert [frame.index for frame in found][-2:] == [4, 5]
    assert len(found) == 4
    assert drawn(frames, replace(job, before=None), bootstrap=False, replay=0.5) == frames
    strapped = [frame.index for frame in drawn(frames, job, bootstrap=True, replay=1.0)]
    assert len(strapped) == 6
    assert len(set(strapped)) < 6
    assert strapped != [f.index for f in drawn(frames, replace(job, seed=(0, 2, 1)), bootstrap=True, replay=1.0)]


def test_settings_that_mean_nothing_are_refused(files: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs a committee"):
        learn(tmp_path, campaign(files, members=1))
    with pytest.raises(InputError, match="below stop"):
        Thresholds(select=2.0, stop=1.0)
    with pytest.raises(InputError, match="did you mean 'forces_std'"):
        Thresholds(score="force_std")


def test_a_campaign_on_a_dask_cluster_asks_for_the_same_frames(files: dict[str, str], tmp_path: Path) -> None:
    given = campaign(files, stop=Stop(generations=1))
    here, _, _ = learn(tmp_path / "here", given)
    cluster = dask(workers=1)
    try:
        there = Learning(given, tmp_path / "there", cluster, lambda line: None)
        there.run()
    finally:
        cluster.shutdown()
    for name in ("candidates", "labelled"):
        one, other = (frames_of(learning.place(1) / f"{name}.extxyz") for learning in (here, there))
        assert [identity(atoms) for atoms in one] == [identity(atoms) for atoms in other]


@pytest.mark.filterwarnings("default")  # jsonargparse says what a later config replaces
@pytest.mark.parametrize(
    "names",
    [("teacher",), ("interface",), ("interface", "chgnet"), ("interface", "chgnet", "workstation")],
    ids="+".join,
)
def test_configs_are_understood(root: Path, tmp_path: Path, names: tuple[str, ...]) -> None:
    words = [word for name in names for word in ("-c", str(root / f"configs/learn/{name}.yaml"))]
    options, text = parsed([*words, "--directory", str(tmp_path)])
    fit = options["fit"][0] if isinstance(options["fit"], list) else options["fit"]
    assert isinstance(fit, Trained if "chgnet" in names else Solved)
    assert options["explorer"].thresholds.low > 0
    assert (options["control"] == "spare") == ("workstation" in names)
    if "interface" in names:
        assert len(options["explorer"].changes) == 3  # a later config changes single settings of the explorer
    assert "finetune.learning.Dynamics" in text


@THEIR_WARNINGS
def test_training_goes_on_from_where_the_member_stood(files: dict[str, str], tmp_path: Path) -> None:
    def weights(name: str) -> torch.Tensor:
        return models.load(tmp_path / name).get_parameter("potential.coefficients").detach()

    first = Trained(potential=ACE(**ACE_SETTINGS), first_epochs=3, epochs=1, rate=1e-2)
    job = Job(Path(files["train"]), Path(files["valid"]), None, 0, (0, 0, 0))
    first.fit(job, tmp_path / "first.ckpt")
    first.fit(job, tmp_path / "again.ckpt")
    assert weights("first.ckpt").abs().max() > 1e-3
    assert torch.equal(weights("first.ckpt"), weights("again.ckpt"))
    later = replace(job, before=tmp_path / "first.ckpt", generation=1)
    replace(first, rate=1e-12).fit(later, tmp_path / "still.ckpt")
    torch.testing.assert_close(weights("still.ckpt"), weights("first.ckpt"), rtol=0, atol=1e-9)
    first.fit(replace(later, seed=(0, 1, 1)), tmp_path / "other.ckpt")
    assert (weights("other.ckpt") - weights("first.ckpt")).abs().max() > 1e-4
    replace(first, anchor=1e6).fit(later, tmp_path / "anchored.ckpt")  # all the way, at every step
    torch.testing.assert_close(weights("anchored.ckpt"), first.start().get_parameter("coefficients").detach())


@THEIR_WARNINGS
def test_units_are_asked_for_before_the_first_label_and_not_after_it(root: Path, tmp_path: Path) -> None:
    frames = [a for a in ase.io.read(root / "data/interface/train.extxyz", ":") if len(a) < 10][:8]
    for atoms in frames:
        atoms.info["REF_stress"] = -atoms.info["REF_stress"]
    write_frames(tmp_path / "flipped.extxyz", frames)
    valid = str(root / "data/interface/valid.extxyz")
    fit = Trained(potential="mace:mini", first_epochs=1, epochs=1, rate=1e-12)
    job = Job(tmp_path / "flipped.extxyz", Path(valid), None, 0, (0, 0, 0))
    with pytest.raises(InputError, match="opposite sign"):
        fit.fitted(job)
    models.save(Shifted(fit.start()), tmp_path / "before.ckpt")
    fit.fitted(replace(job, before=tmp_path / "before.ckpt", generation=1))
