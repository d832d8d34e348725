"""Label frames through an executor: nothing is computed twice, nothing that was computed is lost."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, wait
from dataclasses import dataclass
from pathlib import Path

from ase import Atoms

from finetune.errors import InputError
from finetune.files import sweep, sync, temporary_name
from finetune.labelling.core import Folders, Labeller, Outcome
from finetune.labelling.executors import refused, shortened, withdraw
from finetune.labelling.store import Store, claim, identity, of_label, without_labels
from finetune.locks import locked
from finetune.progress import Progress

INPUTS = "*/frame.extxyz"  # what folders of input hold
GIVEN_UP = "GIVEN_UP"  # a file in a folder of input that nobody will run
POLL_S = 1.0  # how often it is noted which frames are being computed
IDLE = 3  # deaths of workers in a row, with nothing done in between, after the first one, that are borne


@dataclass(frozen=True)
class Report:
    """What a run of labelling leaves.

    Attributes:
        labelled: frames with labels, in the order of the input, each structure once.
        failed: reasons by identity of the frames that have none.
        missing: identities of frames that nobody has computed yet.
        repeated: frames of the input that stand in it more than once.
    """

    labelled: list[Atoms]
    failed: dict[str, list[str]]
    missing: list[str]
    repeated: int


def label(
    frames: Sequence[Atoms],
    labeller: Labeller,
    executor: Executor,
    directory: Path,
    retry: bool = False,
    known: Sequence[Atoms] = (),
) -> Report:
    """Label frames that are not labelled yet; whatever is finished is written before the next one is waited for.

    Args:
        frames: structures; `info` is kept, labels that they have are not.
        labeller: gives the labels.
        executor: runs it; it is shut down at the end.
        directory: the store; a second run goes on where the first one stopped.
        retry: compute frames again that failed before.
        known: frames that have labels already; those by the same method are taken over instead of computed.

    Raises:
        InputError: the directory holds labels of another method; workers died.
    """
    store = Store(directory, labeller)
    wanted = {identity(atoms): without_labels(atoms) for atoms in frames}
    try:
        with store.alone():
            for atoms in known:
                if (name := identity(atoms)) in wanted and atoms.info.get("label_method") == labeller.method_hash():
                    store.take(name, atoms)
            for name in filter(store.done, wanted):
                store.read(name)  # damage is reported before anything is computed
            for name in wanted if retry else ():
                if not store.done(name):
                    store.forget(name)
            todo = {int(z) for name, atoms in wanted.items() if not store.done(name) for z in atoms.numbers}
            if todo:
                labeller.warn_unseen(todo)
            with Progress("label", len(wanted), "frames", delay=0.0) as bar:
                _rounds(wanted, labeller, executor, store, bar)
    finally:
        executor.shutdown(wait=False)
    return report(frames, store)


def _rounds(wanted: dict[str, Atoms], labeller: Labeller, executor: Executor, store: Store, bar: Progress) -> None:
    """Compute what is left, again after a worker died: the frames that it was at alone then, and aside in the end.

    Raises:
        InputError: workers die and nothing gets done.
    """
    before, idle = len(wanted) + 1, 0
    while todo := [name for name in wanted if not store.done(name) and not store.reasons(name)]:
        bar.update(len(wanted) - len(todo) - bar.count)
        alone = [name for name in todo if store.suspect(name)]
        try:
            for names in [[name for name in todo if name not in alone], *([name] for name in alone)]:
                _compute(names, wanted, labeller, executor, store, bar)
            return
        except BrokenExecutor as error:
            before, idle = len(todo), idle + 1 if len(todo) == before else 0
            if idle == IDLE:
                raise InputError(
                    f"workers died {IDLE + 1} times in a row ({error}); what was finished is in {store.directory}. "
                    "Run the same command again to go on, with fewer workers if memory is short"
                ) from error
            bar.line(f"a worker died ({error}); going on without the frames that it was at")


def _compute(
    names: list[str], wanted: dict[str, Atoms], labeller: Labeller, executor: Executor, store: Store, bar: Progress
) -> None:
    """Submit frames and write what comes; frames that were not begun are withdrawn when it is stopped."""
    pending: dict[Future[Outcome], str] = {}
    try:
        for name in names:
            pending[executor.submit(labeller.label, wanted[name])] = name
        _collect(pending, wanted, store, bar)
    finally:
        withdraw(pending)


def _collect(pending: dict[Future[Outcome], str], wanted: dict[str, Atoms], store: Store, bar: Progress) -> None:
    """Write outcomes as they come.

    Raises:
        BrokenExecutor: the executor cannot go on; the frames that it was at are noted.
    """
    waiting, running = set(pending), set[str]()
    while waiting:
        finished, waiting = wait(waiting, timeout=POLL_S, return_when=FIRST_COMPLETED)
        broken: BaseException | None = None
        for future in finished:
            name, error = pending[future], future.exception()
            if error is None:
                store.put(name, wanted[name], future.result())
                running.discard(name)
            elif isinstance(error, BrokenExecutor):
                broken = error
            else:  # a node that was lost, by whatever name the executor calls it, or a job that was not taken
                why = f"{type(error).__name__}: {shortened(error)}"
                if refused(error):
                    store.lose(name, wanted[name], why)
                else:
                    store.died(name, wanted[name], alone=True, why=why)
            bar.update()
        if broken is not None:
            guilty = running or {pending[future] for future in finished if future.exception() is broken}
            for name in guilty:
                store.died(name, wanted[name], alone=len(pending) == 1)
            raise broken
        running = {pending[future] for future in waiting if future.running()}


def write_folders(frames: Sequence[Atoms], labeller: Folders, inputs: Path) -> tuple[int, int]:
    """Write a folder of input for each frame that has none yet; how many are new, and how many frames there are."""
    names = {identity(atoms): without_labels(atoms) for atoms in frames}
    with locked(inputs, "choose another --output"):
        claim(inputs, labeller, INPUTS)
        sweep(inputs, below=False)
        new = [name for name in names if not (inputs / name).exists()]
        for name in new:
            folder = temporary_name(inputs / name)
            labeller.write(names[name], folder)
            for path in (*folder.iterdir(), folder):
                sync(path)
            folder.rename(inputs / name)
        sync(inputs)
    return len(new), len(names)


def collect_folders(frames: Sequence[Atoms], labeller: Folders, inputs: Path, directory: Path) -> Report:
    """Read what is finished in folders of input, one for each frame; see `label` for the rest."""
    store = Store(directory, labeller)
    with store.alone():
        for name, atoms in {identity(atoms): without_labels(atoms) for atoms in frames}.items():
            if not store.done(name):
                outcome = labeller.collect(atoms, inputs / name)
                if outcome is None and (inputs / name / GIVEN_UP).exists():
                    outcome = Outcome(None, ["it has been given up"])
                store.forget(name)
                if outcome is not None:
                    store.put(name, atoms, outcome)
    return report(frames, store)


def report(frames: Sequence[Atoms], store: Store) -> Report:
    """What the store says of frames."""
    names = [identity(atoms) for atoms in frames]
    unique = dict.fromkeys(names)
    reasons = {name: store.reasons(name) for name in unique if not store.done(name)}
    given = dict(zip(names, frames, strict=True))
    return Report(
        labelled=[_with_origin(store.read(name), given[name]) for name in unique if store.done(name)],
        failed={name: why for name, why in reasons.items() if why},
        missing=[name for name, why in reasons.items() if not why],
        repeated=len(names) - len(unique),
    )


def _with_origin(labelled: Atoms, given: Atoms) -> Atoms:
    """A labelled frame whose family, group and story are those of the input, which may have changed."""
    labels = {key: value for key, value in labelled.info.items() if of_label(key)}
    labelled.info = {key: value for key, value in given.info.items() if not of_label(key)} | labels
    return labelled
