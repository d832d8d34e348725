"""A campaign: generations one after the other in a directory, until one of the reasons to stop holds."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import numpy as np

from finetune.data.reading import read
from finetune.errors import InputError
from finetune.files import sweep
from finetune.labelling.store import Store, identity
from finetune.learning import answering
from finetune.learning import generation as steps
from finetune.learning.fanout import Kept
from finetune.learning.files import POOL, check_files, claim, once, read_facts, read_frames
from finetune.learning.gathering import clear, cut_at_random, gather_candidates
from finetune.learning.grades import GRADED, SHARED, apart, grade
from finetune.learning.harvesting import records, uncertain_share
from finetune.learning.parts import SPARE, read_parts, spared
from finetune.learning.refitting import GENERATION
from finetune.learning.selectors import Random, Selector
from finetune.learning.settings import Campaign
from finetune.learning.stopping import Summary
from finetune.provenance import unseen_message

CONTROL = "control"  # directory of the control arm
RESERVE = 4  # times as many frames are drawn where some cannot be cut


class Learning:
    """A campaign in its directory; making it reads what is there and computes nothing.

    Args:
        campaign: its settings.
        directory: one generation below the other; see `finetune.learning.generation`.
        executor: where the work is done; it stays open.
        tell: gets a line for each step.
    """

    def __init__(
        self,
        campaign: Campaign,
        directory: Path,
        executor: Executor,
        tell: Callable[[str], None] = print,
    ) -> None:
        campaign.check()
        self.campaign, self.directory, self.executor, self.tell = campaign, directory, Kept(executor), tell
        self.labels = directory / "labels"
        self.parts = read_parts(
            *(campaign.train, campaign.valid, campaign.test, campaign.fraction, campaign.seed),
            spare=campaign.control == SPARE,
        )
        judges = [frame for name in ("valid", "test") for frame in self.parts.get(name, [])]
        self.held_out = {frame.group for frame in judges} | {frame.structure_hash for frame in judges}
        free, self.left_out = campaign.explorer.pool(self.held_out)
        pool = hashlib.sha256("".join(f"{frame.structure_hash}{frame.group}" for frame in free).encode()).hexdigest()
        doubt = None if campaign.relabel else answering.check_labels(self.parts, campaign.labeller)
        self._check_test()
        claim(directory, {**campaign.settings(self.parts), POOL: pool}, campaign.seed)
        if doubt and not self.place(0).exists():
            tell(doubt)
        parts = {**self.parts, "pool": free}
        elements = {name: {int(z) for frame in part for z in frame.atoms.numbers} for name, part in parts.items()}
        strange = set[int]().union(*elements.values()) - elements["train"]
        if strange and not self.place(0).exists():
            tell(f"warning: {unseen_message(strange)}")

    def _check_test(self) -> None:
        """Raise `InputError` for other test frames than those that the directory has been begun with."""
        had = {identity(atoms) for atoms in read_frames(self.directory / "test.extxyz")}
        given = {identity(frame.atoms) for frame in self.parts.get("test", [])}
        if had and (had - given or (given - had and not self.campaign.relabel)):  # a label may have failed
            raise InputError(
                f"{self.directory} was begun with other test frames; give these, or choose another --directory"
            )

    def run(self, after: Callable[[Learning, int], None] = lambda learning, generation: None) -> str:
        """Generations until it is over, and why it is; `after` is called at the end of each."""
        sweep(self.directory)
        if self.left_out:
            self.tell(
                f"{self.left_out} structures begin no exploration, being validation or test frames or of their groups"
            )
        n = 0
        while True:
            self.generation(n)
            after(self, n)
            reason = self.campaign.stop.reason(self.history(n), len(self.parts["train"]))
            if reason:
                return reason
            n += 1

    def last(self) -> int:
        """The last generation that has a report, or 0."""
        return max((int(path.parent.name[-2:]) for path in self.directory.glob("generation-*/report.html")), default=0)

    def place(self, n: int, control: bool = False) -> Path:
        """Directory of a generation; the control arm begins with the first one's."""
        whole = self.directory / f"generation-{n:02d}"
        return whole / CONTROL if control and n else whole

    def generation(self, n: int) -> None:
        """What is missing of a generation."""
        place, arms = self.place(n), (False, True) if self.campaign.control and n else (False,)
        for folder in (self.directory, *(self.place(n, control) for control in arms)):
            check_files(folder)
        if n == 0:
            self._begin(place)
        else:
            self._ask(n)
            self._answer(n)
        for control in arms:
            self._fit(n, control)
        errors = read_facts(place / "errors.json")["valid"]["all"]
        asked, new = (len(read_frames(place / f"{name}.extxyz")) for name in ("selected", "labelled"))
        start = f"{len(self.parts['train'])} frames to begin with"
        self.tell(
            f"generation {n}: {f'{new} of {asked} labels, {self._new(n)} in all' if n else start}; validation forces "
            f"RMSE {errors['forces_rmse']:.0f} meV/Å, energy MAE {errors['energy_mae']:.1f} meV/atom"
        )

    def _begin(self, place: Path) -> None:
        """The frames to begin with, to judge by and to test on."""
        files = {name: (place if name == "train" else self.directory) / f"{name}.extxyz" for name in self.parts}
        missing = {name: path for name, path in files.items() if not path.exists()}
        frames = {name: steps.as_labelled(self.parts[name]) for name in missing}
        if self.campaign.relabel:
            everything = [atoms for part in frames.values() for atoms in part]
            answering.label(everything, self.campaign.labeller, self.executor, self.labels, 0, place)
            frames = {n: answering.answers(part, self.campaign.labeller, self.labels, 0) for n, part in frames.items()}
        for name, path in missing.items():
            if not frames[name]:
                raise InputError(
                    f"none of the frames of {name} has a label by the labeller; see {self.labels / 'failed'}"
                )
            once(path, frames[name])

    def _ask(self, n: int) -> None:
        """Explore, gather candidates, select."""
        campaign, place, before = self.campaign, self.place(n), self.place(n - 1)
        thresholds = campaign.explorer.thresholds
        there = (place / "candidates.extxyz").exists()
        if not there or (place / "explored").is_dir():
            tasks = campaign.explorer.tasks(campaign.seed, n, self.held_out)
            steps.explore(campaign.explorer, tasks, before, place / "explored", self.executor, f"explore {n}")
        if not there:
            found, about = gather_candidates(place, thresholds, campaign.cutter, before, self.executor)
            for reason in about["refused"]:
                self.tell(f"generation {n}: {reason}")
            once(place / "candidates.json", about)
            once(place / "candidates.extxyz", found)
        clear(place)
        budget = self._budget(n)
        for control in (False, True) if campaign.control else (False,):
            self._select(n, control, budget)

    def _select(self, n: int, control: bool, budget: int) -> None:
        """The frames that an arm asks for; the control arm asks for as many as the other one."""
        campaign, path = self.campaign, self.place(n, control) / "selected.extxyz"
        if path.exists():
            return
        rng = np.random.default_rng([campaign.seed, n, 8 if control else 7])
        if control:
            budget = len(read_frames(self.place(n) / "selected.extxyz"))
        if control and campaign.control == SPARE:
            spare, had = self.directory / f"{SPARE}.extxyz", self.place(n - 1, True) / "train.extxyz"
            found = spared(read_frames(spare), read_frames(had), budget, n, rng)
            self.tell(f"generation {n}: {len(found)} spare frames for the control")
            once(path, found)
            return
        selector: Selector = Random(apart=campaign.selector.apart) if control else campaign.selector
        whole = control and campaign.control == "explored"
        frames = steps.explored(self.place(n)) if whole else read_frames(self.place(n) / "candidates.extxyz")
        frames = answering.not_failed(frames, Store(self.labels, campaign.labeller))
        labelled = read_frames(self.place(n - 1, control) / "train.extxyz")
        before = self.place(n - 1)
        cutter = campaign.cutter if whole else None
        drawn = budget if cutter is None else RESERVE * budget  # not all can be cut
        chosen = steps.select(frames, labelled, before, selector, campaign.reactants, drawn, rng)
        if cutter is not None:
            chosen = cut_at_random(chosen, campaign.explorer.thresholds, cutter, before, budget, rng)
        if not control:
            less = len(chosen) < min(budget, len(frames))
            why = "; the others are duplicates or beyond the share of a run" if less else ""
            self.tell(f"generation {n}: {len(chosen)} of {len(frames)} candidates selected{why}")
        elif len(chosen) < budget:
            self.tell(f"generation {n}: the control gets {len(chosen)} frames where {budget} were wanted")
        once(path, chosen)

    def _budget(self, n: int) -> int:
        """Labels that may be asked for."""
        total = self.campaign.stop.labels
        return self.campaign.batch if total is None else max(0, min(self.campaign.batch, total - self._new(n - 1)))

    def _answer(self, n: int) -> None:
        """Labels for both arms, in one go; then the frames to train on."""
        campaign = self.campaign
        places = [self.place(n, control) for control in ((False, True) if campaign.control else (False,))]
        asked = [read_frames(place / "selected.extxyz") for place in places]
        spare = campaign.control == SPARE
        if not all((place / "labelled.extxyz").exists() for place in places):
            wanted = [atoms for frames in asked[: 1 if spare else None] for atoms in frames]
            answering.label(wanted, campaign.labeller, self.executor, self.labels, n, self.place(n))
            for line in answering.failures(wanted, Store(self.labels, campaign.labeller)):
                self.tell(f"generation {n}: {line}")
        for k, (place, frames) in enumerate(zip(places, asked, strict=True)):
            if not (place / "labelled.extxyz").exists():
                known = spare and k == 1  # the frames carry their labels
                found = frames if known else answering.answers(frames, campaign.labeller, self.labels, n)
                once(place / "labelled.extxyz", found)
            if not (place / "train.extxyz").exists():
                before = read_frames(self.place(n - 1, bool(k)) / "train.extxyz")
                new = read_frames(place / "labelled.extxyz")
                there = {identity(atoms) for atoms in before}
                once(place / "train.extxyz", before + [a for a in new if identity(a) not in there])

    def _fit(self, n: int, control: bool) -> None:
        """Members and their errors."""
        campaign, place = self.campaign, self.place(n, control)
        before = self.place(n - 1, control) if n else None
        score = campaign.explorer.thresholds.score
        valid, calibrating = self._judges(score)
        whole = campaign.members == 1 or score == "gamma"
        steps.refit(campaign.fits, place, before, valid, campaign.seed, n, self.executor, whole)
        if not control:
            grade(place, score, calibrating)
        parts = {name: self.directory / f"{name}.extxyz" for name in self.parts if name not in ("train", SPARE)}
        if not (place / "errors.json").exists():
            once(place / "errors.json", steps.measure(place, parts))

    def _judges(self, score: str) -> tuple[Path, Path]:
        """Frames that choose the epoch of a fit, and those that calibrate its errors: the same where groups are few."""
        valid = self.directory / "valid.extxyz"
        if score != "forces_error":
            return valid, valid
        paths = self.directory / "valid-fits.extxyz", self.directory / "valid-calibration.extxyz"
        if not all(path.exists() for path in paths):
            divided = apart(read(valid))
            if divided is None:
                if not (self.place(0) / GRADED).exists():
                    self.tell(SHARED)
                return valid, valid
            frames = read_frames(valid)
            for path, part in zip(paths, divided, strict=True):
                once(path, [frames[i] for i in part])
        return paths

    def _hours(self, n: int, arms: Sequence[bool]) -> float:
        """Hours of computing what arms have asked for up to a generation, what failed included, what is spare not."""
        store, seconds = Store(self.labels, self.campaign.labeller), dict[str, float]()
        for place in (self.place(k, arm) for k in range(1, n + 1) for arm in arms):
            if place.name == CONTROL and self.campaign.control == SPARE:
                continue
            for atoms in read_frames(place / "selected.extxyz"):
                seconds.setdefault(identity(atoms), store.failed_s(identity(atoms)))
            for atoms in read_frames(place / "labelled.extxyz"):
                seconds[identity(atoms)] = float(atoms.info.get("wall_s", 0.0))
        return sum(seconds.values()) / 3600

    def _new(self, n: int, control: bool = False) -> int:
        """Labels that an arm has got up to a generation."""
        frames = read_frames(self.place(n, control) / "train.extxyz")
        return sum(bool(atoms.info.get(GENERATION, 0) > 0) for atoms in frames)

    def history(self, n: int, control: bool = False) -> list[Summary]:
        """What the generations up to one have come to."""
        return [self._summary(k, control) for k in range(n + 1)]

    def _summary(self, n: int, control: bool) -> Summary:
        place = self.place(n, control)
        errors = read_facts(place / "errors.json")["valid"]["all"]
        arms = [False, True] if self.campaign.control else [False]
        about: dict[str, Any] = {"spent_h": self._hours(n, arms)}
        if n:
            about |= {
                "uncertain": uncertain_share(records(self.place(n) / "explored")),
                "candidates": len(read_frames(self.place(n) / "candidates.extxyz")),
                "refused": len(read_frames(place / "selected.extxyz")) - len(read_frames(place / "labelled.extxyz")),
            }
        return Summary(n, self._new(n, control), self._hours(n, [control]), errors["forces_rmse"], **about)
