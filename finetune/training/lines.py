"""Progress of a fit where there is no bar: a line for each epoch, and one at least every 30 s within it."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch.callbacks import Callback

from finetune.progress import Progress, line


class EpochLines(Callback):
    """Prints `epoch 3/30: train loss 1.02, valid forces MAE 127 meV/Å, 51 s` after each epoch."""

    def __init__(self) -> None:
        self.progress: Progress | None = None
        self.began = time.monotonic()

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin to count the batches of an epoch."""
        self.began = time.monotonic()
        if trainer.is_global_zero:
            total = trainer.num_training_batches
            self.progress = Progress(epoch(trainer), total if math.isfinite(total) else None, "batches").__enter__()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count a batch."""
        if self.progress is not None:
            self.progress.update()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Name the validation, which follows the batches."""
        if self.progress is not None:
            self.progress.update(0, "validation")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Print the figures of the epoch."""
        self._close()
        if trainer.is_global_zero:
            seconds = f"{time.monotonic() - self.began:.0f} s"
            line(f"{epoch(trainer)}: {', '.join([*figures(trainer.callback_metrics), seconds])}")

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Stop counting."""
        self._close()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop counting."""
        self._close()

    def _close(self) -> None:
        if self.progress is not None:
            self.progress.__exit__(None, None, None)
            self.progress = None


def epoch(trainer: Any) -> str:
    """`epoch 3/30`, without the last one where it is not known."""
    last = trainer.max_epochs
    return f"epoch {trainer.current_epoch + 1}" + (f"/{last}" if last and last > 0 else "")


def figures(metrics: Any) -> list[str]:
    """Loss, and error of validation forces or energies, as far as they are measured."""
    known = {name: float(value) for name, value in metrics.items() if math.isfinite(float(value))}
    shown = {
        "train/loss": ("train loss {:.3g}", 1.0),
        "valid/energy_mae": ("valid energy MAE {:.3g} meV/atom", 1e3),
        "valid/forces_mae": ("valid forces MAE {:.3g} meV/Å", 1e3),
    }
    return [text.format(scale * known[name]) for name, (text, scale) in shown.items() if name in known]
