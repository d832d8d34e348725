"""The tables and plots of a comparison as a run in Weights & Biases."""

from __future__ import annotations

from pathlib import Path

from finetune.comparison.compare import Comparison
from finetune.comparison.drawing import panels
from finetune.comparison.report import Told, contents, summary
from finetune.training.wandb_log import account


def check_login() -> None:
    """Check that there is a key, or that the record is kept on this machine, before anything is computed.

    Raises:
        InputError: neither.
    """
    import wandb

    with account():
        wandb.login()


def log(comparison: Comparison, told: Told, project: str, directory: Path) -> None:
    """Log figures as tables, panels as plots, the page as HTML; `WANDB_MODE=offline` keeps it on this machine."""
    import wandb

    content = contents(comparison, told)
    config = {"columns": content["columns"], "reference": content["reference"], "commands": content["commands"]}
    with account(), wandb.init(project=project, dir=str(directory), job_type="compare", config=config) as run:
        names = list(comparison.columns)
        matrix = wandb.Table(columns=["observable", *names])
        for row in content["rows"]:
            cells = [row["cells"].get(name) for name in names]
            matrix.add_data(row["heading"], *(summary(cell) for cell in cells))
            own = wandb.Table(columns=["column", "subject", "quantity", "value", "unit", "reference", "ratio"])
            for name, cell in row["cells"].items():
                for figure in cell.get("figures", []):
                    own.add_data(
                        *(name, figure["subject"], figure["kind"], figure["value"], figure["unit"]),
                        *(figure["reference"], figure["ratio"]),
                    )
            record = {f"{row['heading']}/figures": own}
            found = {
                name: result.measured.curves
                for (heading, name), result in comparison.results.items()
                if heading == row["heading"] and result.measured is not None
            }
            plot = panels(found, comparison.reference, names)
            run.log(record | ({f"{row['heading']}/plots": wandb.Plotly(plot)} if plot is not None else {}))
        run.log({"summary": matrix, "report": wandb.Html((directory / "report.html").read_text())})
