"""How members of the committee are fitted again when labels have come; each fit is a task of an executor."""

from __future__ import annotations

import hashlib
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from finetune import models
from finetune.adapting import Shifted
from finetune.data.frames import Frame, fitted_to
from finetune.data.module import FrameData
from finetune.data.reading import read
from finetune.errors import InputError
from finetune.loss import Loss
from finetune.potential import Potential
from finetune.training.closed_form import ClosedForm, gather, solve, take_up

GENERATION = "generation"  # in the info of a frame: the generation that asked for its label
EDGES = 3000  # in a batch


@dataclass(frozen=True)
class Job:
    """What one member is fitted to.

    Attributes:
        train: labelled frames, old and new.
        valid: frames to judge by; never trained on.
        before: the member of the generation before; None in the first.
        generation: of this fit.
        seed: numbers that its randomness follows from; they differ for every member.
    """

    train: Path
    valid: Path
    before: Path | None
    generation: int
    seed: tuple[int, ...]


class Resampled(FrameData):
    """Training frames drawn for one member of a committee.

    Args:
        job: what to fit to.
        bootstrap: draw as many frames as there are, with replacement, so that members differ by their data.
        replay: share of the frames of earlier generations that a fit sees again beside the new ones.
    """

    def __init__(self, job: Job, bootstrap: bool, replay: float = 1.0) -> None:
        order = int(np.random.default_rng([*job.seed, 13]).integers(2**31))
        first = job.before is None  # later labels are of one labeller, and a stop would come after their cost
        super().__init__(train=str(job.train), valid=str(job.valid), batch_edges=EDGES, seed=order, units=first)
        self.job, self.bootstrap, self.replay = job, bootstrap, replay

    def frames(self, part: str) -> list[Frame]:
        """Frames of a part; those to train on are drawn once."""
        if part == "train" and part not in self._frames:
            self._frames[part] = drawn(self._read(part), self.job, self.bootstrap, self.replay)
        return super().frames(part)


def drawn(frames: list[Frame], job: Job, bootstrap: bool, replay: float) -> list[Frame]:
    """The new frames and a share of the old ones, then perhaps a bootstrap of these."""
    rng = np.random.default_rng([*job.seed, 11])
    old = [frame for frame in frames if frame.atoms.info.get(GENERATION, 0) != job.generation]
    new = [frame for frame in frames if frame.atoms.info.get(GENERATION, 0) == job.generation]
    if job.before is not None and replay < 1 and new:
        count = min(len(old), max(1, round(replay * len(old))))
        old = [old[k] for k in np.sort(rng.choice(len(old), count, replace=False))] if old else old
    frames = old + new
    if not bootstrap:
        return frames
    return [frames[k] for k in np.sort(rng.integers(len(frames), size=len(frames)))]


@dataclass(frozen=True, kw_only=True)
class Refit(ABC):
    """Fits one member.

    Attributes:
        potential: a model name (`chgnet`, a run directory, a checkpoint), or a potential by `class_path` and
            `init_args`.
        bootstrap: members are fitted to bootstraps of the frames, which makes their spread that of the fit.
        loss: kind and weights of the loss.
    """

    potential: str | Potential
    bootstrap: bool = True
    loss: Loss = field(default_factory=Loss)

    def start(self) -> Potential:
        """The potential as it is before any fit, a new one for each call."""
        if isinstance(self.potential, str):
            return models.load(self.potential)
        return models.build(self.potential.config())

    @abstractmethod
    def fitted(self, job: Job) -> Potential:
        """The potential after the fit."""

    def fit(self, job: Job, path: Path) -> None:
        """Fit and write a checkpoint, whole."""
        torch.manual_seed(int(np.random.default_rng([*job.seed, 12]).integers(2**31)))
        potential = self.fitted(job)
        data = fitted_to(read(job.train), read(job.valid))  # a bootstrap may lack frames, the committee knows them all
        potential.training_data = data.after(self.start().training_data)
        models.save(potential.eval(), path, generation=job.generation, train=job.train.name)

    def settings(self) -> str:
        """What decides the fit, as text; `weights` has the content of a model in a file."""
        kind = self.potential if isinstance(self.potential, str) else str(self.potential.config())
        return f"{kind} {replace(self, potential='')}"

    def weights(self) -> str:
        """SHA-256 of the file that the potential comes from; empty where it comes from none."""
        if not isinstance(self.potential, str):
            return ""
        place = Path(self.potential.removeprefix("mace:"))
        if place.is_dir():
            place = next(iter(models.members(place)), None) or models.in_run(place)
        return hashlib.sha256(place.read_bytes()).hexdigest() if place.is_file() else ""


@dataclass(frozen=True, kw_only=True)
class Solved(Refit):
    """A linear potential, solved for in closed form from all frames that there are: old data are never forgotten.

    Attributes:
        solve: ridge and smoothness.
    """

    solve: ClosedForm = field(default_factory=lambda: ClosedForm(ridge="evidence"))

    def fitted(self, job: Job) -> Potential:
        """Solve the normal equations."""
        start = self.start()
        potential = start if isinstance(start, Shifted) else Shifted(start)
        data = Resampled(job, self.bootstrap).prepare(potential)
        equations = gather(potential.eval(), data.loader("train"))
        by_valid = self.solve.ridge == "validation"
        valid = gather(potential, data.loader("valid")) if by_valid else None
        take_up(potential, solve(equations, valid, self.loss, self.solve))
        return potential


@dataclass(frozen=True, kw_only=True)
class Trained(Refit):
    """A potential trained by gradient: a short fit from where the member stood before, with a share of the old frames.

    Attributes:
        epochs: of every fit after the first.
        first_epochs: of the first fit, which starts from the foundation.
        rate: peak learning rate of AdamW.
        replay: share of the frames of earlier generations that is seen again.
        groups: learning-rate factors of parameter groups; 0 freezes one.
        anchor: pull back to the weights of `potential`, in every generation, against forgetting (see FineTune).
    """

    epochs: int = 8
    first_epochs: int = 20
    rate: float = 1e-3
    replay: float = 1.0
    groups: Mapping[str, float] | None = None
    anchor: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that mean nothing."""
        if min(self.epochs, self.first_epochs) < 1 or not 0 <= self.replay <= 1:
            raise InputError(f"epochs {self.epochs}, {self.first_epochs} are 1 or more, replay {self.replay} is 0 to 1")

    def fitted(self, job: Job) -> Potential:
        """Train; the last weights of the schedule are taken, so that the validation frames choose nothing."""
        import lightning  # only where it is needed: reading it takes seconds

        from finetune.training.module import FineTune

        module = FineTune(  # from the foundation, which is what the anchor holds on to
            self.start(),
            self.loss,
            optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=self.rate, weight_decay=0.0),
            groups=self.groups,
            anchor=self.anchor,
        )
        if job.before is not None:
            module.potential.load_state_dict(models.load(job.before).state_dict())
        with tempfile.TemporaryDirectory(prefix="refit-") as folder:
            trainer = lightning.Trainer(
                max_epochs=self.first_epochs if job.before is None else self.epochs,
                accelerator="auto",
                devices=1,
                logger=False,
                enable_checkpointing=False,
                enable_progress_bar=False,
                enable_model_summary=False,
                inference_mode=False,
                gradient_clip_val=10.0,
                limit_val_batches=0,
                default_root_dir=folder,
            )
            trainer.fit(module, datamodule=Resampled(job, self.bootstrap, self.replay))
        if trainer.interrupted:
            raise KeyboardInterrupt
        return module.potential.cpu()
