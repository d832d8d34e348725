"""When a campaign ends."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from finetune.errors import InputError


@dataclass(frozen=True)
class Summary:
    """What a generation has come to.

    Attributes:
        generation: its number.
        labels: labelled frames that were asked for so far.
        cost_h: hours of computing that these took, and those that failed.
        forces_rmse: error on the validation frames, meV/Å.
        uncertain: share of the time of dynamics that was uncertain; None without dynamics.
        candidates: frames that were worth asking for; None in the first generation, which does not explore.
        refused: of the candidates chosen, how many have no label.
        spent_h: hours of computing for labels of all arms.
    """

    generation: int
    labels: int
    cost_h: float
    forces_rmse: float
    uncertain: float | None = None
    candidates: int | None = None
    refused: int = 0
    spent_h: float = 0.0


@dataclass(frozen=True)
class Stop:
    """Whatever comes first ends the campaign; None never does.

    Attributes:
        generations: that explore.
        labels: budget of labels, without those of a control.
        hours: budget of computing for labels, h, those that failed and those of a control included.
        forces_rmse: error on the validation frames that is good enough, meV/Å.
        uncertain: share of uncertain time of dynamics that is small enough.
        plateau: a generation that lowers the error by a smaller share than this for each doubling of the labels is a
            plateau.
        patience: plateaus, or generations without a new label, in a row that end the campaign.
    """

    generations: int | None = 10
    labels: int | None = None
    hours: float | None = None
    forces_rmse: float | None = None
    uncertain: float | None = None
    plateau: float | None = None
    patience: int = 2

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        given = {name: value for name, value in vars(self).items() if value is not None}
        if any(value < 0 for value in given.values()) or self.patience < 1:
            raise InputError(f"{self}: limits are 0 or more, patience 1 or more")
        if len(given) == 1:
            raise InputError("nothing would ever stop the campaign; give stop.generations or another limit")

    def reason(self, history: Sequence[Summary], start: int) -> str | None:
        """Why it is over, in words; None where it goes on.

        Args:
            history: of all generations so far, the first one included.
            start: labelled frames that there were at the beginning.
        """
        last = history[-1]
        if self.forces_rmse is not None and last.forces_rmse <= self.forces_rmse:
            return f"the error of forces is {last.forces_rmse:.0f} meV/Å, {self.forces_rmse:g} were wanted"
        if self.labels is not None and last.labels >= self.labels:
            return f"{last.labels} labels are there, {self.labels} was the budget"
        if self.hours is not None and last.spent_h >= self.hours:
            return f"labels have taken {last.spent_h:.1f} h, {self.hours:g} h was the budget"
        if self.uncertain is not None and last.uncertain is not None and last.uncertain <= self.uncertain:
            return f"{100 * last.uncertain:.1f} % of the time is uncertain, {100 * self.uncertain:g} % were wanted"
        recent = history[-self.patience - 1 :]
        if len(recent) == self.patience + 1 and recent[0].labels == last.labels:
            empty = all(one.candidates == 0 for one in recent[1:])
            return f"{self.patience} generations have {'found nothing to ask for' if empty else 'brought no new label'}"
        if self.plateau is not None and self._flat(history, start):
            return f"the error of forces falls by less than {100 * self.plateau:g} % for twice the labels"
        if self.generations is not None and last.generation >= self.generations:
            return f"{last.generation} generations were wanted"
        return None

    def _flat(self, history: Sequence[Summary], start: int) -> bool:
        """The last `patience` generations with new labels all lowered the error too little."""
        grown = [history[0]]
        grown += [one for before, one in itertools.pairwise(history) if one.labels > before.labels]
        gains = []
        for before, now in itertools.pairwise(grown):
            doublings = math.log2((start + now.labels) / (start + before.labels))
            gains.append(1 - (now.forces_rmse / before.forces_rmse) ** (1 / doublings))
        recent = gains[-self.patience :]
        return len(recent) == self.patience and all(gain < (self.plateau or 0.0) for gain in recent)
