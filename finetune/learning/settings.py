"""What a campaign is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from finetune.data.frames import Frame, data_hash
from finetune.errors import InputError
from finetune.labelling.core import Folders, Labeller
from finetune.learning.describing import ends
from finetune.learning.exploration import Explorer
from finetune.learning.files import WEIGHTS
from finetune.learning.parts import SPARE
from finetune.learning.refitting import Refit
from finetune.learning.selectors import Batch, Selector
from finetune.learning.stopping import Stop
from finetune.learning.subcells import Cutter


@dataclass(frozen=True)
class Campaign:
    """What a campaign is made of.

    Attributes:
        train: labelled frames to begin with.
        valid: labelled frames to judge by, the same ones in every generation; never trained on. None takes a tenth of
            the groups of `train`, and another one to test on.
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
    valid: list[str] | None
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
        if self.reactants is not None:
            ends(self.reactants)
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
        weights = " ".join(fit.weights() for fit in self.fit)
        return {**text, "fit": str(fits), WEIGHTS: weights, "labeller": self.labeller.method_hash(), **data}
