"""Graphs of frames: built once, kept in memory, and on disk if wanted."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from finetune.checksums import CHECKSUM, read_tensors, write_tensors
from finetune.data.frames import Frame
from finetune.errors import InputError
from finetune.graph import Graph
from finetune.potential import Potential
from finetune.progress import line, through

FORMAT = "1"  # of the cache files; another number makes all of them void
UNREADABLE = (
    *(OSError, RuntimeError, LookupError, AttributeError, EOFError, TypeError, ValueError),
    pickle.PickleError,
)
LARGE = 150  # atoms; below it the interpreter is the bottleneck and threads only wait for each other


def build_graphs(
    potential: Potential, frames: Sequence[Frame], workers: int = 2, cache: str | Path | None = None
) -> list[Graph]:
    """The potential's graphs of frames, in their order, on the CPU.

    Structures of more than 150 atoms on average are built by `workers` threads, which share the memory; smaller ones
    one after the other, because there threads and processes were measured to be slower (0.3 to 0.8 ms per graph of 30
    atoms).

    Args:
        potential: whose `graph` and `config`.
        frames: the structures.
        workers: threads.
        cache: folder to keep graphs in, one file per set of frames and potential; None keeps them in memory only.

    Raises:
        InputError: the potential cannot take a structure; the message names the frame.
    """
    if not frames:
        return []
    path = None if cache is None else Path(cache) / f"graphs-{_key(potential, frames)}.pt"
    graphs = None if path is None else _load(path, len(frames))
    if graphs is None:
        graphs = _build(potential, frames, workers)
        if path is not None:
            _save(path, graphs)
    return graphs


def _build(potential: Potential, frames: Sequence[Frame], workers: int) -> list[Graph]:
    def graph(frame: Frame) -> Graph:
        try:
            return potential.graph(frame.atoms)
        except InputError as error:
            raise InputError(f"{frame.where()}: {error}") from error

    mean = sum(len(frame.atoms) for frame in frames) / len(frames)
    if workers < 2 or mean < LARGE:
        return [graph(frame) for frame in through(frames, "graphs", len(frames), "frames")]
    with ThreadPoolExecutor(workers) as pool:
        return list(through(pool.map(graph, frames), "graphs", len(frames), "frames"))


def _key(potential: Potential, frames: Sequence[Frame]) -> str:
    """SHA-256 of what the graphs depend on: the potential without its weights, and the exact structures in order."""
    digest = hashlib.sha256(FORMAT.encode())
    digest.update(json.dumps([potential.cutoff, potential.config()], sort_keys=True, default=str).encode())
    for atoms in (frame.atoms for frame in frames):
        for array in (atoms.numbers.astype("<i8"), atoms.positions, atoms.cell.array, atoms.pbc.astype("<i8")):
            digest.update(array.tobytes())
    return digest.hexdigest()


def _save(path: Path, graphs: Sequence[Graph]) -> None:
    """Write the graphs joined key by key, whole or not at all."""
    joined: dict[str, Tensor] = {}
    for key in graphs[0]:
        joined[key] = torch.cat([graph[key] for graph in graphs], dim=_dim(key))
        joined[f"{key}.sizes"] = torch.tensor([graph[key].shape[_dim(key)] for graph in graphs])
    try:
        write_tensors(joined, path)
    except InputError as error:
        reason = f"cannot write the graph cache {path}: {error.__cause__}"
        raise InputError(f"{reason}; free some space or leave cache out") from error


def _load(path: Path, count: int) -> list[Graph] | None:
    """Graphs of a cache file; None where there is none or it is damaged (a line says so): they are built anew."""
    if not path.is_file():
        return None
    try:
        joined = read_tensors(path)
        keys = [key for key in joined if key != CHECKSUM and not key.endswith(".sizes")]
        parts = {key: joined[key].split(joined[f"{key}.sizes"].tolist(), dim=_dim(key)) for key in keys}
        if not keys or any(len(part) != count for part in parts.values()):
            raise ValueError(f"it does not hold {count} graphs")
    except UNREADABLE as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        line(f"{path}: damaged graph cache ({reason}); the graphs are built anew")
        return None
    return [{key: parts[key][i] for key in keys} for i in range(count)]


def _dim(key: str) -> int:
    """The dimension along which graphs are joined, as in `finetune.graph.collate`."""
    return 1 if key == "edge_index" else 0
