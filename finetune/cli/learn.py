"""`finetune learn -c CONFIG --directory DIR`: generations of active learning, which go on where they were stopped."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.loggers import Logger

from finetune.cli import inputs
from finetune.files import write_text
from finetune.labelling.core import Folders, Labeller, Waiting
from finetune.labelling.executors import Processes
from finetune.learning.campaign import Learning
from finetune.learning.exploration import Explorer
from finetune.learning.files import check_campaign
from finetune.learning.refitting import Refit
from finetune.learning.report import write_report
from finetune.learning.selectors import Batch, Selector
from finetune.learning.settings import Campaign
from finetune.learning.stopping import Stop
from finetune.learning.subcells import Cutter
from finetune.learning.tracking import track
from finetune.locks import locked
from finetune.training.wandb_log import connect

WAITING = 3  # exit status where calculations are to be run by the user


def run(arguments: list[str]) -> int:
    """Learn with arguments as on the command line; status 3 where it waits for calculations that the user runs."""
    options, text = parsed(arguments[1:])
    try:
        learn(**options, text=text)
    except Waiting as waiting:
        print(waiting)
        return WAITING
    return 0


def parsed(arguments: list[str]) -> tuple[dict[str, Any], str]:
    """What `learn` takes, its objects built, and the resolved config as YAML."""
    parser = inputs.parser(
        "learn",
        "Active learning: explore, select, label, fit again. Run it again to go on after it was stopped.",
        "-c CONFIG --directory DIR [--OPTION VALUE ...]",
    )
    parser.add_function_arguments(learn, as_group=False, as_positional=False, skip={"text"})
    given = parser.parse_args(inputs.own_data(arguments, "--"))
    text = parser.dump(given)
    return inputs.given(parser.instantiate(given)), text


def learn(
    directory: Path,
    train: str | list[str],
    labeller: Labeller | Folders,
    explorer: Explorer,
    fit: Refit | list[Refit],
    members: int = 4,
    selector: Selector = Batch(),  # noqa: B008  frozen
    batch: int = 10,
    reactants: tuple[str, str] | None = None,
    cutter: Cutter | None = None,
    control: Literal["candidates", "explored", "spare"] | None = None,
    valid: str | list[str] | None = None,
    test: str | list[str] | None = None,
    fraction: float = 1.0,
    relabel: bool = False,
    stop: Stop = Stop(),  # noqa: B008  frozen
    executor: Callable[[], Executor] = Processes,
    logger: Logger | None = None,
    seed: int = 0,
    text: str = "",
) -> None:
    """Learn actively, generation after generation, until one of the reasons to stop holds.

    Args:
        directory: where everything is written; the same command goes on there.
        train: labelled frames to begin with.
        labeller: what answers, DFT or a teacher, by `class_path`. One that writes folders of input
            (`finetune.labelling.VaspFolders`) leaves them in DIR/labels.inputs and ends with status 3; when they have
            been run, the same command goes on.
        explorer: where candidates come from, and which of them are uncertain enough.
        fit: how the members of the committee are fitted; a list is taken in turn, for a mixed committee.
        members: of the committee.
        selector: chooses among the candidates.
        batch: labels that a generation asks for.
        reactants: formulas of the two phases that react, for the closeness to the reaction front.
        cutter: sub-cells for structures that are too large for DFT.
        control: train a second committee on as many frames chosen at random among the `candidates`, among all that
            was `explored`, either for as many labels once more, or among the `spare` training frames that `fraction`
            leaves out, which costs none.
        valid: labelled frames to judge by, always the same ones; never trained on. Without, a tenth of the groups of
            `train`, and another one to test on; what a config names is left out where you give your own --train.
        test: labelled frames whose errors are told and decide nothing.
        fraction: share of the training frames to begin with.
        relabel: label train, valid and test by the labeller first: they must be of its method.
        stop: when it is over; labels are those of the selected arm, hours those of the control too.
        executor: where it is computed, a `concurrent.futures.Executor` by `class_path`; default: processes here.
        logger: a WandbLogger by `class_path` gets the same figures.
        seed: everything random follows from it.
        text: the resolved config.
    """
    torch.set_num_threads(1)
    judging, testing = (None if files is None else listed(files) for files in (valid, test))
    campaign = Campaign(
        listed(train), judging, labeller, explorer, fit if isinstance(fit, list) else [fit], members, selector, batch,
        reactants, cutter, control, testing, fraction, relabel, stop, seed,
    )  # fmt: skip
    check_campaign(directory)
    with locked(directory, "choose another --directory"):
        computed(campaign, directory, executor(), logger, text)


def computed(campaign: Campaign, directory: Path, workers: Executor, logger: Logger | None, text: str) -> None:
    """Run a campaign's generations with these workers, a report after each, and say why it is over."""
    idle = True
    try:
        connect([logger])
        learning = Learning(campaign, directory, workers)
        write_text(directory / "config.yaml", text)

        def after(learning: Learning, n: int) -> None:
            write_report(learning, n)
            track(learning, n, logger)

        idle = False
        reason = learning.run(after)
        idle = True
    except Waiting:
        idle = True
        raise
    finally:
        workers.shutdown(wait=idle)  # what has not begun has been withdrawn
    print(f"over: {reason}. The report is {learning.place(learning.last()) / 'report.html'}")


def listed(files: str | list[str]) -> list[str]:
    """One or several files as a list."""
    return [files] if isinstance(files, str) else files
