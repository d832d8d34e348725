"""The LightningDataModule: files in, batches out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from typing import Any

import lightning
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from finetune.data.batching import Batch, Loader, collate_batch, plan
from finetune.data.caching import build_graphs
from finetune.data.checking import check, check_units
from finetune.data.frames import Frame, data_hash, isolated_message, without_isolated
from finetune.data.labels import LabelKeys
from finetune.data.reading import read
from finetune.data.splitting import PARTS, check_disjoint, split, subset
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.potential import Potential

NEEDED = {"fit": ("train", "valid"), "validate": ("valid",), "test": ("test",), "predict": ("predict",)}
Files = list[str] | str | None


class FrameData(lightning.LightningDataModule):
    """Labelled structures for training, validation and test, and structures to predict.

    Each of `train`, `valid`, `test`, `predict` is a file, a folder, a glob pattern or a list of these: extended XYZ,
    ASE databases and trajectories, `vasprun.xml`, `OUTCAR`.

    Args:
        train: frames to learn from.
        valid: frames to choose the best epoch by; default is a part of `train`, by group.
        test: frames that training never sees.
        predict: structures to predict; they need no labels.
        split: shares of train, valid and test that `train` is divided into, where these have no files of their own.
        batch_edges: largest number of edges in a batch; what a batch costs in time and memory is proportional to it.
        keys: names of the labels.
        fraction: share of the training frames that is used, for learning curves; a smaller share is part of a larger
            one.
        units: refuse labels whose units are wrong beyond doubt.
        seed: of split and fraction; the order of batches depends on `seed_everything` too.
        workers: threads that build graphs of large structures.
        cache: folder that keeps graphs between runs; none by default.
    """

    def __init__(
        self,
        train: Files = None,
        valid: Files = None,
        test: Files = None,
        predict: Files = None,
        split: tuple[float, float, float] = (0.9, 0.1, 0.0),
        batch_edges: int = 8000,
        keys: LabelKeys = LabelKeys(),  # noqa: B008  (frozen)
        fraction: float = 1.0,
        units: bool = True,
        seed: int = 0,
        workers: int = 2,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        self.files = {"train": train, "valid": valid, "test": test, "predict": predict}
        self.split = split
        self.batch_edges = batch_edges
        self.keys = keys
        self.fraction = fraction
        self.units = units
        self.seed = seed
        self.workers = workers
        self.cache = cache
        self._potential: Potential | None = None
        self._frames: dict[str, list[Frame]] = {}
        self._graphs: dict[str, list[Graph]] = {}

    @property
    def train_frames(self) -> list[Frame]:
        """Frames to learn from."""
        return self.frames("train")

    @property
    def valid_frames(self) -> list[Frame]:
        """Frames to choose the best epoch by."""
        return self.frames("valid")

    @property
    def test_frames(self) -> list[Frame]:
        """Frames that training never sees."""
        return self.frames("test")

    @property
    def predict_frames(self) -> list[Frame]:
        """Structures to predict."""
        return self.frames("predict")

    def data_hash(self) -> str:
        """SHA-256 over the labelled frames of all parts that have been read, whatever order they stand in."""
        return data_hash(frame for part in PARTS for frame in self._frames.get(part, []))

    def prepare(self, potential: Potential) -> FrameData:
        """Name the potential that builds the graphs; for scripts, as Lightning's trainer knows it otherwise."""
        if potential is not self._potential:
            self._graphs.clear()
        self._potential = potential
        return self

    def setup(self, stage: str) -> None:
        """Read and check the frames that a stage needs, and build their graphs.

        Raises:
            InputError: files or frames that cannot be used.
        """
        if self.trainer is not None:
            potential = self.trainer.lightning_module.potential
            assert isinstance(potential, Potential)
            self.prepare(potential)
        parts = NEEDED[stage]
        for part in parts:
            self.frames(part)
        if stage == "fit":
            known = {part: self.frames(part) for part in PARTS if part in parts or self.files[part] is not None}
            check_disjoint(known)
            rank_zero_info(self._division(known))
        for part in parts:
            self.graphs(part)

    def _division(self, known: dict[str, list[Frame]]) -> str:
        """How many frames each part has, and which of them were taken from the files of `train`."""
        counts = [
            f"{part} {len(frames)}"
            + ("" if part == "train" or self.files[part] is not None else " (of train's groups)")
            for part, frames in known.items()
        ]
        return f"frames: {', '.join(counts)}"

    def frames(self, part: str) -> list[Frame]:
        """Checked frames of train, valid, test or predict, read when they are first wanted.

        Raises:
            InputError: there are none, or they cannot be used.
        """
        if part not in self._frames:
            if self.files[part] is None or part == "train":
                self._divide(part)
            else:
                self._frames[part] = self._read(part)
        return self._frames[part]

    def graphs(self, part: str) -> list[Graph]:
        """The potential's graphs of `frames(part)`, built when they are first wanted."""
        if part not in self._graphs:
            potential = self._known_potential()
            self._graphs[part] = build_graphs(potential, self.frames(part), self.workers, self.cache)
        return self._graphs[part]

    def train_dataloader(self) -> Loader:
        """Batches of this epoch: their order depends on the seeds and the epoch only, also after a restart."""
        epoch = self.trainer.current_epoch if self.trainer is not None else 0
        return self.loader("train", np.random.default_rng([self.seed + global_seed(), epoch]), epoch)

    def val_dataloader(self) -> Loader:
        """Batches of the validation frames, always the same."""
        return self.loader("valid")

    def test_dataloader(self) -> Loader:
        """Batches of the test frames, always the same."""
        return self.loader("test")

    def predict_dataloader(self) -> Loader:
        """Batches of the structures to predict; `Batch.frames` says which is which."""
        return self.loader("predict")

    def loader(self, part: str, rng: np.random.Generator | None = None, epoch: int = 0) -> Loader:
        """Batches of a part, shuffled by `rng`; each process gets its own."""
        graphs, labels = self.graphs(part), [frame.labels for frame in self.frames(part)]
        size, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer is not None else (1, 0)
        batches = plan([int(graph["n_edges"].sum()) for graph in graphs], self.batch_edges, rng, size, rank)
        return Loader(batches, partial(collate_batch, self._known_potential().collate, graphs, labels), epoch)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Lightning's hook; the potential itself chooses its dtype."""
        return batch.to(device)

    def _known_potential(self) -> Potential:
        if self._potential is None:
            raise InputError("graphs need a potential; call prepare(potential) first or give the data to a Trainer")
        return self._potential

    def _read(self, part: str) -> list[Frame]:
        labelled = part != "predict"
        frames = read(self.files[part] or [], self.keys, labelled)
        check(frames, labelled)
        if labelled:
            frames = self._without_isolated(frames)
        if labelled and self.units:
            check_units(frames)
        return frames

    def _without_isolated(self, frames: list[Frame]) -> list[Frame]:
        """Frames without isolated atoms, whose energies would distort the reference energies of the elements.

        Raises:
            InputError: nothing else is there.
        """
        rest, alone = without_isolated(frames)
        if alone:
            use = "reference energies, training, validation and test (they serve as atom energies in finetune compare)"
            message = isolated_message(alone, use)
            if not rest:
                raise InputError(f"{message}; no other frame is there. Add frames of several atoms")
            rank_zero_info(message)
        return rest

    def _divide(self, wanted: str) -> None:
        """Fill the train part, and from the same files those parts that have none of their own."""
        shares = [share if part == "train" or self.files[part] is None else 0.0 for part, share in self._shares()]
        if self.files["train"] is None or wanted not in PARTS or shares[PARTS.index(wanted)] == 0:
            raise InputError(
                f"no {wanted} frames; give --data.{wanted}"
                + (f", or --data.split a share above 0 for {wanted}" if wanted in ("valid", "test") else "")
            )
        parts = split(self._read("train"), (shares[0], shares[1], shares[2]), self.seed)
        for part, share, frames in zip(PARTS, shares, parts, strict=True):
            if share > 0:
                self._frames[part] = subset(frames, self.fraction, self.seed) if part == "train" else frames

    def _shares(self) -> Sequence[tuple[str, float]]:
        return list(zip(PARTS, self.split, strict=True))

    @property
    def read(self) -> set[str]:
        """The parts that have been read or have files."""
        return {*self._frames, *(part for part, files in self.files.items() if files is not None)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Refuse to go on with other data than those that a fit began with.

        Raises:
            InputError: the labelled frames are not the same.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit" and state_dict["data_hash"] != self.data_hash():
            raise InputError(
                "the data are not those of the fit that is to go on; give it the same files, "
                "or start a new fit from its model: --model.potential RUN"
            )

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint says of the data."""
        return {"data_hash": self.data_hash()}


def global_seed() -> int:
    """What `seed_everything` was given, the same in all processes of a run; 0 where it was not called."""
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
