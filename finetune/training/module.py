"""`FineTune`: predict, compare with the labels, log. One LightningModule for every potential."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import lightning
import torch
from lightning.pytorch.callbacks import Timer, WeightAveraging
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from torch.optim import Optimizer

from finetune import models
from finetune.adapting import Shifted, freeze_unused, parameter_groups
from finetune.data.batching import Batch
from finetune.data.frames import fitted_to
from finetune.errors import InputError
from finetune.loss import Loss
from finetune.potential import Potential
from finetune.properties import Properties
from finetune.training.closed_form import ClosedForm, NormalEquations, check_linear, gather, solve, take_up
from finetune.training.preparation import absolute_errors, described_fit, elements, group_names, refit_references


def adamw(parameters: Any) -> Optimizer:
    """AdamW with a learning rate of 1e-3 and no weight decay, what fine-tuning wants (arXiv 2606.12704)."""
    return torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.0)


class FineTune(lightning.LightningModule):
    """Fine-tune a potential on energies, forces and stress.

    Args:
        potential: a model name (`chgnet`, `mace:mini`, `mace:medium-mpa-0`, a run directory, a checkpoint) or a
            potential by `class_path` and `init_args`, for its options.
        loss: kind, weights and schedule of the loss.
        optimizer: constructor of the optimiser; its learning rate is the peak of the schedule.
        warmup: share of the run over which the learning rate rises linearly.
        schedule: `cosine` falls to `final` times the peak at the end of the run, `constant` stays.
        final: learning rate at the end over the peak.
        groups: learning-rate factors of parameter groups (embedding, interactions, readouts); 0 freezes a group.
        anchor: pull of the weights back to those that the fit begins with, against forgetting: after every step they go
            `anchor` times the learning rate of the way back (L2-SP, arXiv 1802.01483, decoupled as in AdamW); 0: none.
        refit_references: refit one reference energy per element to the difference between labels and foundation first.
        solve: solve for the coefficients of a linear potential in the first epoch (an atomic cluster expansion, or the
            first density of one); epochs that follow train by gradient from there.
    """

    def __init__(
        self,
        potential: str | Potential = "chgnet",
        loss: Loss = Loss(),  # noqa: B008  frozen
        optimizer: OptimizerCallable = adamw,
        warmup: float = 0.05,
        schedule: Literal["cosine", "constant"] = "cosine",
        final: float = 0.0,
        groups: Mapping[str, float] | None = None,
        anchor: float = 0.0,
        refit_references: bool = True,
        solve: ClosedForm | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= warmup < 1:
            raise InputError(
                f"warmup is the share of the run over which the learning rate rises, got {warmup}; give 0 to 1"
            )
        if isinstance(potential, str):
            potential = models.load(potential)
        potential = potential.bare()
        self.potential = potential if isinstance(potential, Shifted) else Shifted(potential)
        self.potential.train()
        self.earlier = self.potential.training_data
        self.loss, self.optimizer, self.warmup, self.schedule, self.final = loss, optimizer, warmup, schedule, final
        self.groups, self.refit_references = dict(groups or {}), refit_references
        self.solve: ClosedForm | None = solve
        self.equations: NormalEquations | None = None
        self.solved = False
        if anchor < 0 or (anchor and solve is not None):
            raise InputError(
                f"anchor is the pull back to the foundation, 0 or more, and goes with no closed-form fit; got {anchor}"
            )
        self.anchor = anchor
        if solve is not None:
            check_linear(self.potential)
        magmoms = self.loss.magmoms > 0 or any((stage.magmoms or 0) > 0 for stage in self.loss.stages or [])
        freeze_unused(self.potential, magmoms)
        parameter_groups(self.potential, 1.0, self.groups)  # freezes before DDP looks at what is free
        free = [parameter for parameter in self.potential.parameters() if parameter.requires_grad and anchor]
        self.begun = {parameter: parameter.detach().clone() for parameter in free}

    def forward(self, graph: dict[str, Tensor]) -> Properties:
        """Energy (eV), forces (eV/Å) and stress (eV/Å³) of a batched graph."""
        predicted: Properties = self.potential(graph)
        return predicted

    def step(self, batch: Batch, stage: str) -> Tensor:
        """Predict, compare with the labels, log the loss and its mean absolute errors."""
        predicted = self(batch.graph)
        last = max((stage.epoch for stage in self.loss.stages or []), default=0)
        loss = self.loss.at(
            self.current_epoch if stage == "train" else last
        )  # the best epoch needs one measure for all
        total, terms = loss(predicted, batch.labels, batch.n_atoms)
        size = len(batch.n_atoms)
        self._log(f"{stage}/loss", total.detach(), size, prog_bar=True)
        for name, value in terms.items():
            if loss.weights[name] > 0 or name != "magmoms":
                self._log(f"{stage}/{name}_loss", value.detach(), size)
        for name, (error, known) in absolute_errors(predicted, batch).items():
            self._log(f"{stage}/{name}_mae", error, known, prog_bar=stage == "valid" and name == "forces")
        return total

    def _log(self, name: str, value: Tensor, size: int, prog_bar: bool = False) -> None:
        count: Any = float(size)  # Lightning divides whole counts of several processes without a remainder
        self.log(name, value.float(), on_step=False, on_epoch=True, batch_size=count, prog_bar=prog_bar, sync_dist=True)

    def training_step(self, batch: Batch) -> Tensor | None:
        """Loss of a training batch, or None where the batch is only added to the normal equations."""
        if self.solving:
            self._add(batch)
            return None
        loss = self.step(batch, "train")
        if not torch.isfinite(loss):
            raise InputError(
                f"the loss is {float(loss)} in epoch {self.current_epoch}; lower the learning rate or clip gradients "
                "(--trainer.gradient_clip_val 10), and check the labels; best.ckpt holds the last good weights"
            )
        return loss

    @property
    def solving(self) -> bool:
        """This epoch solves for the coefficients instead of training them."""
        return self.solve is not None and self.current_epoch == 0

    def _add(self, batch: Batch) -> None:
        """Add a batch to the normal equations, and solve them after the last one."""
        trainer: Any = self.trainer
        assert self.solve is not None
        if trainer.fit_loop.epoch_loop.batch_progress.current.ready == 1:
            self.equations = NormalEquations(self.potential)
        if self.equations is None:
            raise InputError("the first epoch was stopped in the middle, and what it had added up is lost; fit again")
        self.equations.add(batch)
        if trainer.is_last_batch:
            valid = gather(self.potential, trainer.datamodule.loader("valid"))
            solution = solve(self.equations, valid, self.loss.at(0), self.solve)
            take_up(self.potential, solution)
            rank_zero_info(solution.message())
            self.equations, self.solved = None, True

    def on_train_epoch_end(self) -> None:
        """Refuse to leave a model whose coefficients were not solved for."""
        if self.solving and not self.solved:
            raise InputError("the fit ended before all frames were added up, so nothing is solved; allow it one epoch")

    def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
        """Let the optimiser work, but not while the coefficients are solved for."""
        if self.solving:
            optimizer_closure()
        else:
            super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
            self._pull(optimizer)

    @torch.no_grad()
    def _pull(self, optimizer: Any) -> None:
        """Take the share `anchor` times the learning rate of the way from where the fit began back."""
        for group in optimizer.param_groups if self.anchor else []:
            for parameter in group["params"]:
                start = self.begun[parameter] = self.begun[parameter].to(parameter.device)
                parameter.lerp_(start, min(1.0, self.anchor * group["lr"]))

    def validation_step(self, batch: Batch) -> None:
        """Loss and errors of a validation batch."""
        self.step(batch, "valid")

    def test_step(self, batch: Batch) -> None:
        """Loss and errors of a test batch."""
        self.step(batch, "test")

    def on_predict_start(self) -> None:
        """Warn of elements that no training frame contains."""
        frames = self.trainer.datamodule.predict_frames  # type: ignore[attr-defined]
        self.potential.warn_unseen(elements(frames))

    def predict_step(self, batch: Batch) -> tuple[Tensor, Tensor, Properties]:
        """Indices of the frames, their numbers of atoms, and what is predicted for them."""
        return batch.frames, batch.n_atoms, self(batch.graph).to("cpu")

    def configure_optimizers(self) -> Optimizer:
        """The optimiser over the free parameter groups; each keeps its peak learning rate as `peak`."""
        groups = parameter_groups(self.potential, 1.0, self.groups)
        factors = [group.pop("lr") for group in groups]
        try:
            optimizer = self.optimizer(groups)
        except ValueError as error:
            if "parameter groups" not in str(error):
                raise
            if len(set(factors)) > 1:
                raise InputError(f"{error}; leave --model.groups out, or freeze groups (0) instead") from error
            optimizer = self.optimizer([parameter for group in groups for parameter in group["params"]])
            factors = factors[:1]
        for group, factor in zip(optimizer.param_groups, factors, strict=True):
            group["lr"] *= factor
            group["peak"] = group["lr"]
        return optimizer

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        """Set the learning rates for the share of the run that is over; depends on nothing but that share."""
        factor = self.rate(self._progress(batch_idx))
        optimizer: Any = self.optimizers()
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor

    def rate(self, progress: float) -> float:
        """Learning rate over its peak when a share `progress` of the run is over."""
        if progress < self.warmup:
            return (progress + 1e-3) / (self.warmup + 1e-3)
        if self.schedule == "constant":
            return 1.0
        x = min(1.0, (progress - self.warmup) / (1 - self.warmup))
        return self.final + (1 - self.final) * (1 + math.cos(math.pi * x)) / 2

    def _progress(self, batch_idx: int) -> float:
        """Share of `max_epochs`, `max_steps` or `max_time` that is over, the largest."""
        trainer: Any = self.trainer
        shares = [0.0]
        if trainer.max_epochs and trainer.max_epochs > 0:
            shares.append(
                (trainer.current_epoch + batch_idx / max(1, trainer.num_training_batches)) / trainer.max_epochs
            )
        if trainer.max_steps > 0:
            shares.append(trainer.global_step / trainer.max_steps)
        for timer in trainer.callbacks:
            remaining = timer.time_remaining() if isinstance(timer, Timer) else None
            if remaining is not None:
                elapsed = timer.time_elapsed()
                shares.append(elapsed / max(elapsed + remaining, 1e-9))
        return max(shares)

    def on_fit_start(self) -> None:
        """Refuse what would fail later without a clear word."""
        if torch.is_inference_mode_enabled():
            raise InputError("forces are gradients: validation needs Trainer(inference_mode=False)")
        if self.solve is not None and self.trainer.world_size > 1:
            raise InputError(
                "coefficients are solved for in one process; leave --trainer.devices at 1, or train by gradient "
                "(--model.solve null)"
            )
        if self.solve is not None and any(isinstance(c, WeightAveraging) for c in self.trainer.callbacks):  # type: ignore[attr-defined]
            raise InputError(
                "averaged weights would remember the coefficients from before they were solved for; leave the callback "
                "out (--trainer.callbacks null), or refine a finished fit: --model.potential RUN --model.solve null"
            )
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        self.potential.training_data = fitted_to(data.train_frames, data.valid_frames).after(self.earlier)
        if self.refit_references and not self.trainer.ckpt_path:
            fitted = refit_references(self.potential, data)
            rank_zero_info(fitted.message())

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another model than the fit began with.

        Raises:
            InputError: the potential or the optimised parameters are others.
        """
        began, now = checkpoint.get("potential"), self.potential.config()
        if began is not None and began != now:
            raise InputError(
                f"--ckpt_path: got a fit of {described_fit(began, now)}, expected {described_fit(now, began)}. Give "
                "the configs that it began with, or start from it with --model.potential RUN and another "
                "--trainer.default_root_dir"
            )
        for state in checkpoint.get("optimizer_states", []):
            before, groups = state["param_groups"], self.configure_optimizers().state_dict()["param_groups"]
            if [(set(g), len(g["params"])) for g in before] != [(set(g), len(g["params"])) for g in groups]:
                raise InputError(
                    f"--ckpt_path: got the state of {group_names(before)}, expected {group_names(groups)}. Give the "
                    "--model.optimizer and --model.groups that the fit began with"
                )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the potential, so that a `.ckpt` is a model."""
        checkpoint["format"] = models.FORMAT
        checkpoint["potential"] = self.potential.config()
        checkpoint["licence"] = self.potential.licence
        if self.potential.training_data is not None:
            checkpoint[models.TRAINING] = self.potential.training_data.plain()
