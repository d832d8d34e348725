"""What Weights & Biases is told of a campaign: the figures of each generation and its report."""

from __future__ import annotations

from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from finetune.learning.campaign import Learning
from finetune.learning.files import read_facts


def track(learning: Learning, n: int, logger: Logger | None) -> None:
    """Log the figures of a generation, of both arms; to Weights & Biases the report too."""
    if logger is None:
        return
    figures: dict[str, float] = {}
    for arm, control in (("selected", False), *([("control", True)] if learning.campaign.control else [])):
        one = learning.history(n, control)[-1]
        content: dict[str, Any] = read_facts(learning.place(n, control) / "errors.json")
        for part, errors in content.items():
            figures |= {f"{arm}/{part}_{name}": value for name, value in errors["all"].items() if value is not None}
        known = {"labels": one.labels, "cost_h": one.cost_h, "uncertain_share": one.uncertain, "refused": one.refused}
        figures |= {f"{arm}/{name}": float(value) for name, value in known.items() if value is not None}
    logger.log_metrics(figures, step=n)
    if isinstance(logger, WandbLogger):
        import wandb

        page = (learning.place(n) / "report.html").read_text()
        logger.experiment.log({"report": wandb.Html(page, inject=False)}, step=n)
