"""Agreement of labels with predictions, frame by frame: cosine, ratio of norms and sizes."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np

from finetune.evaluation import Evaluation

ALMOST = 1 - 1e-6  # largest |c| in it


SQUEEZED = 0.03  # eV/Å³, pressure that is far beyond that error


SMALLEST = 4  # atoms; the forces on fewer have hardly a direction of their own: those on a pair agree or oppose


MIN_FRAMES = 3  # fewer frames prove nothing


MIN_FAINT = 6  # the same of faint ones, in crystals of whose few free coordinates half agree by chance


FEW = 3.0  # times these sizes where fewer than `MIN_FAINT` frames exceed them


MIN_SHARE = 0.15  # of the frames; fewer stick out because the foundation model is wrong there


@dataclass(frozen=True)
class Agreement:
    """Labels and predictions of some frames compared: an entry for each frame."""

    frames: np.ndarray
    label: np.ndarray  # rms
    predicted: np.ndarray  # rms
    error: np.ndarray  # rms of the difference
    c: np.ndarray

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, chosen: np.ndarray) -> Agreement:
        return Agreement(*(getattr(self, field.name)[chosen] for field in fields(self)))

    @property
    def q(self) -> np.ndarray:
        """Ratio of label to prediction."""
        return self.label / self.predicted

    @property
    def smaller(self) -> np.ndarray:
        """Rms of label or prediction, the smaller of both."""
        return np.minimum(self.label, self.predicted)


def force_agreement(evaluation: Evaluation, part: np.ndarray) -> Agreement:
    """Likeness of the forces of some frames; frames with few atoms or a force that is not known are left out."""
    ends = np.cumsum([len(frame.atoms) for frame in evaluation.frames])[:-1]
    label = np.split(evaluation.labels.forces.numpy(), ends)
    predicted = np.split(evaluation.predicted.forces.numpy(), ends)
    tells = [i for i in part if len(label[i]) >= SMALLEST]
    known = np.array([i for i in tells if np.isfinite(label[i]).all() and np.isfinite(predicted[i]).all()], dtype=int)
    return agreements([(label[i], predicted[i]) for i in known], known)


def stress_agreement(evaluation: Evaluation, part: np.ndarray) -> Agreement:
    """Likeness of the stresses of some frames, less the median pressure of each side unless that is high."""
    label, predicted = evaluation.labels.stress.numpy()[part], evaluation.predicted.stress.numpy()[part]
    known = np.isfinite(label).all(axis=(1, 2)) & np.isfinite(predicted).all(axis=(1, 2))
    if not known.any():
        return agreements([], part[known])
    sides = label[known], predicted[known]
    if min(abs(pressure_of(side)) for side in sides) < SQUEEZED:
        sides = sides[0] - pressure_of(sides[0]) * np.eye(3), sides[1] - pressure_of(sides[1]) * np.eye(3)
    return agreements(list(zip(*sides, strict=True)), part[known])


def agreements(pairs: list[tuple[np.ndarray, np.ndarray]], frames: np.ndarray) -> Agreement:
    """Likeness of (label, predicted) pairs."""
    rows = [(rms_of(a), rms_of(b), rms_of(a - b), cosine_of(a, b)) for a, b in pairs]
    return Agreement(frames, *np.array(rows, dtype=float).reshape(-1, 4).T)


def informative(likeness: Agreement, least: float) -> Agreement:
    """The frames in which label and prediction both exceed `least`, or `FEW` times as much where these are few."""
    clear = likeness[likeness.smaller > least]
    return clear if len(clear) >= MIN_FAINT else clear[clear.smaller > FEW * least]


def needed_frames(likeness: Agreement) -> int:
    """Number of frames that it takes for a verdict on all of them."""
    return max(MIN_FRAMES, math.ceil(MIN_SHARE * len(likeness)))


def pressure_of(stress: np.ndarray) -> float:
    """Median of the mean normal stresses."""
    return float(np.median(np.trace(stress, axis1=1, axis2=2))) / 3


def cosine_of(a: np.ndarray, b: np.ndarray) -> float:
    """Cosine between two arrays of numbers; 0 where one of them is all zero."""
    norm = np.linalg.norm(a) * np.linalg.norm(b)
    return float((a * b).sum() / norm) if norm else 0.0


def fisher_z(c: np.ndarray) -> np.ndarray:
    """Fisher's transform of cosines, whose scatter does not depend on their size."""
    return np.arctanh(np.clip(c, -ALMOST, ALMOST))


def rms_of(values: np.ndarray) -> float:
    """Root mean square."""
    return float(np.sqrt((values**2).mean()))
