"""A campaign: generations one after the other in a directory, until one of the reasons to stop holds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ase import Atoms

from finetune.data.frames import Frame, data_hash
from finetune.errors import InputError
from finetune.labelling.core import Folders, Labeller
from finetune.labelling.store import Store, identity
from finetune.learning import generation as steps
from finetune.learning.exploration import Explorer
from finetune.learning.fanout import Kept
from finetune.learning.files import POOL, claim, once, read_frames
from finetune.learning.harvesting import records, uncertain_share
from finetune.learning.parts import SPARE, read_parts, spared
from finetune.learning.refitting import GENERATION, Refit
from finetune.learning.selectors import Batch, Random, Selector
from finetune.learning.stopping import Stop, Summary
from finetune.learning.subcells import Cutter


@dataclass(frozen=True)
class Campaign:
    """What a campaign is made of.

    Attributes:
        train: labelled frames to begin with.
        valid: labelled frames to judge by, the same ones in every generation; never trained on.
        labeller: what answers, DFT or a teacher; or what writes folders of input for the user to run.
        explorer: where candidates come from, and which of them are uncertain enough.
        fit: how members are fitted; several ways are taken in turn, for a mixed committee.
        members: of the committee.
        selector: chooses among the candidates.
        batch: labels that a generation asks for.
        reactants: formulas of the two phases that react; None counts all places alike.
        cutter: sub-cells for structures that are too large for DFT; None asks for whole structures.
        control: a second committee is trained on as many frames that are chosen at random among the `candidates`, among
            all that was `explored`, or among the `spare` training frames that `fraction` has left out, which have
            labels already, so that the control costs none; None for no control.
        test: labelled frames whose errors are told and decide nothing.
        fraction: share of the training frames to begin with.
        relabel: the labeller labels the frames of train, valid and test first, because labels of two methods do not
            mix: with a teacher in DFT's place.
        stop: when it is over.
        seed: everything random follows from it and the number of the generation.
    """

    train: list[str]
    valid: list[str]
    labeller: Labeller | Folders
    explorer: Explorer
    fit: list[Refit]
    members: int = 4
    selector: Selector = field(default_factory=Batch)
    batch: int = 10
    reactants: tuple[str, str] | None = None
    cutter: Cutter | None = None
    control: Literal["candidates", "explored", "spare"] | None = None
    test: list[str] | None = None
    fraction: float = 1.0
    relabel: bool = False
    stop: Stop = field(default_factory=Stop)
    seed: int = 0

    def check(self) -> None:
        """Raise `InputError` for settings that mean nothing."""
        if not self.fit:
            raise InputError("there is nothing to fit; give `fit` one way or more")
        if self.members < 1 or self.batch < 1 or self.seed < 0:
            raise InputError(f"members {self.members} and batch {self.batch} are 1 or more, seed {self.seed} 0 or more")
        if self.members < 2 and self.explorer.thresholds.score != "gamma":
            raise InputError(f"{self.explorer.thresholds.score} needs a committee; raise members to 2 or more")
        if self.control == SPARE and self.fraction >= 1:
            raise InputError("control: spare draws from training frames that are left out; give a fraction below 1")
        self.labeller.check()

    @property
    def fits(self) -> list[Refit]:
        """How each member is fitted."""
        return [self.fit[k % len(self.fit)] for k in range(self.members)]

    def settings(self, parts: dict[str, list[Frame]]) -> dict[str, str]:
        """What decides the labels, as text; when to stop and where to compute do not."""
        names = ("explorer", "members", "selector", "batch", "reactants", "cutter", "control", "relabel", "seed")
        fits = [fit.settings() for fit in self.fit]
        data = {name: data_hash(frames) for name, frames in parts.items() if name != "test"}
        text = {name: str(getattr(self, name)) for name in names}
        return {**text, "fit": str(fits), "labeller": self.labeller.method_hash(), **data}


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
        self.held_out = {frame.group for name in ("valid", "test") for frame in self.parts.get(name, [])}
        free, self.left_out = campaign.explorer.pool(self.held_out)
        pool = hashlib.sha256("".join(f"{frame.structure_hash}{frame.group}" for frame in free).encode()).hexdigest()
        claim(directory, {**campaign.settings(self.parts), POOL: pool}, campaign.seed)

    def run(self, after: Callable[[Learning, int], None] = lambda learning, generation: None) -> str:
        """Generations until it is over, and why it is; `after` is called at the end of each."""
        for path in self.directory.rglob("*.partial"):  # of a run that was killed
            path.unlink(missing_ok=True)
        if self.left_out:
            self.tell(
                f"{self.left_out} structures begin no exploration, being of groups of the validation or test frames"
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
        return whole / "control" if control and n else whole

    def generation(self, n: int) -> None:
        """What is missing of a generation."""
        place, arms = self.place(n), (False, True) if self.campaign.control and n else (False,)
        if n == 0:
            self._begin(place)
        else:
            self._ask(n)
            self._answer(n)
        for control in arms:
            self._fit(n, control)
        errors = json.loads((place / "errors.json").read_text())["valid"]["all"]
        self.tell(
            f"generation {n}: {self._asked(n)} labels asked for, validation forces RMSE {errors['forces_rmse']:.0f} "
            f"meV/Å, energy MAE {errors['energy_mae']:.1f} meV/atom"
        )

    def _begin(self, place: Path) -> None:
        """The frames to begin with, to judge by and to test on."""
        files = {name: (place if name == "train" else self.directory) / f"{name}.extxyz" for name in self.parts}
        missing = {name: path for name, path in files.items() if not path.exists()}
        frames = {name: steps.as_labelled(self.parts[name]) for name in missing}
        if self.campaign.relabel:
            everything = [atoms for part in frames.values() for atoms in part]
            steps.label(everything, self.campaign.labeller, self.executor, self.labels, 0)
            frames = {n: steps.answers(part, self.campaign.labeller, self.labels, 0) for n, part in frames.items()}
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
        if not (place / "candidates.extxyz").exists():
            tasks = campaign.explorer.tasks(campaign.seed, n, self.held_out)
            steps.explore(campaign.explorer, tasks, before, place / "explored", self.executor, f"explore {n}")
            found, about = steps.gather_candidates(steps.explored(place), thresholds, campaign.cutter, before)
            for reason in about["refused"]:
                self.tell(f"generation {n}: {reason}")
            once(place / "candidates.json", about)
            once(place / "candidates.extxyz", found)
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
        if whole and campaign.cutter is not None:
            frames = [atoms for atoms in frames if len(atoms) <= campaign.cutter.atoms]
        frames = steps.not_failed(frames, Store(self.labels, campaign.labeller))
        labelled = read_frames(self.place(n - 1, control) / "train.extxyz")
        before = self.place(n - 1)
        chosen = steps.select(frames, labelled, before, selector, campaign.reactants, budget, rng)
        if not control:
            self.tell(f"generation {n}: {len(chosen)} of {len(frames)} candidates selected")
        once(path, chosen)

    def _budget(self, n: int) -> int:
        """Labels that may be asked for."""
        total = self.campaign.stop.labels
        return self.campaign.batch if total is None else max(0, min(self.campaign.batch, total - self._asked(n - 1)))

    def _answer(self, n: int) -> None:
        """Labels for both arms, in one go; then the frames to train on."""
        campaign = self.campaign
        places = [self.place(n, control) for control in ((False, True) if campaign.control else (False,))]
        asked = [read_frames(place / "selected.extxyz") for place in places]
        spare = campaign.control == SPARE
        if not all((place / "labelled.extxyz").exists() for place in places):
            wanted = [atoms for frames in asked[: 1 if spare else None] for atoms in frames]
            steps.label(wanted, campaign.labeller, self.executor, self.labels, n)
        for k, (place, frames) in enumerate(zip(places, asked, strict=True)):
            if not (place / "labelled.extxyz").exists():
                known = spare and k == 1  # the frames carry their labels
                found = frames if known else steps.answers(frames, campaign.labeller, self.labels, n)
                self._tell_failed(n, frames)
                once(place / "labelled.extxyz", found)
            if not (place / "train.extxyz").exists():
                before = read_frames(self.place(n - 1, bool(k)) / "train.extxyz")
                new = read_frames(place / "labelled.extxyz")
                there = {identity(atoms) for atoms in before}
                once(place / "train.extxyz", before + [a for a in new if identity(a) not in there])

    def _tell_failed(self, n: int, frames: Sequence[Atoms]) -> None:
        store = Store(self.labels, self.campaign.labeller)
        for atoms in frames:
            reasons = store.reasons(identity(atoms))
            if reasons:
                self.tell(f"generation {n}: no label for {atoms.get_chemical_formula()}: {reasons[-1]}")

    def _fit(self, n: int, control: bool) -> None:
        """Members and their errors."""
        campaign, place = self.campaign, self.place(n, control)
        before = self.place(n - 1, control) if n else None
        valid = self.directory / "valid.extxyz"
        steps.refit(campaign.fits, place, before, valid, campaign.seed, n, self.executor)
        if not control:
            steps.grade(place, campaign.explorer.thresholds.score, valid)
        parts = {name: self.directory / f"{name}.extxyz" for name in self.parts if name not in ("train", SPARE)}
        if not (place / "errors.json").exists():
            once(place / "errors.json", steps.measure(place, parts))

    def _asked(self, n: int, control: bool = False) -> int:
        """Labels that an arm has got up to a generation."""
        frames = read_frames(self.place(n, control) / "train.extxyz")
        return sum(bool(atoms.info.get(GENERATION, 0) > 0) for atoms in frames)

    def history(self, n: int, control: bool = False) -> list[Summary]:
        """What the generations up to one have come to."""
        return [self._summary(k, control) for k in range(n + 1)]

    def _summary(self, n: int, control: bool) -> Summary:
        place = self.place(n, control)
        errors = json.loads((place / "errors.json").read_text())["valid"]["all"]
        train = read_frames(place / "train.extxyz")
        cost = sum(float(a.info.get("wall_s", 0.0)) for a in train if a.info.get(GENERATION, 0) > 0) / 3600
        about: dict[str, Any] = {}
        if n:
            about = {
                "uncertain": uncertain_share(records(self.place(n) / "explored")),
                "candidates": len(read_frames(self.place(n) / "candidates.extxyz")),
                "refused": len(read_frames(place / "selected.extxyz")) - len(read_frames(place / "labelled.extxyz")),
            }
        return Summary(n, self._asked(n, control), cost, errors["forces_rmse"], **about)
