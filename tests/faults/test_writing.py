"""Whole files are on the disk before they get their name, and the name is on the disk before the command goes on."""

from __future__ import annotations

import ast
import os
import stat
from pathlib import Path

import pytest

from finetune.backbones.chgnet import CHGNet
from finetune.data.caching import build_graphs
from finetune.data.frames import Frame
from finetune.files import whole, write_frames, write_text
from finetune.md import state as md_state
from finetune.models import save

from ..einstein import crystal
from ..structures import ROOT, of_family

FRAME = [Frame(of_family("crystal"), {}, "a.extxyz", 0, "all", "a")]
WRITERS = {
    "text": lambda path: write_text(path, "text"),
    "frames": lambda path: write_frames(path, [crystal()]),
    "checkpoint": lambda path: save(CHGNet.tiny(), path),
    "state": lambda path: md_state.write(path, md_state.arrays_of(crystal()), {"step": 1}),
    "cache": lambda path: build_graphs(CHGNet.tiny(), FRAME, cache=path.parent),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_and_its_directory_are_put_on_the_disk_around_the_renaming(tmp_path, monkeypatch, name):
    """The calls of the system are recorded and carried out; a power cut between any two of them loses no file."""
    events: list[tuple[str, tuple[int, int]]] = []
    fsync, replace = os.fsync, os.replace

    def of(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino

    def recorded_fsync(descriptor: int) -> None:
        fsync(descriptor)
        events.append(("sync", of(os.fstat(descriptor))))

    def recorded_replace(source: Path, target: Path, **more: object) -> None:
        events.append(("rename", of(os.stat(source))))
        replace(source, target, **more)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    place = tmp_path / "new" / "folder"
    WRITERS[name](place / "file.pt")
    (written,) = place.iterdir()
    renamed = events.index(("rename", of(written.stat())))
    assert ("sync", of(written.stat())) in events[:renamed]
    assert ("sync", of(place.stat())) in events[renamed:]
    for above in (place.parent, tmp_path):  # the entries of the new directories
        assert ("sync", of(above.stat())) in events[:renamed]


def test_files_have_the_mode_of_the_umask_and_temporary_names_differ(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "text")
        with whole(tmp_path / "b") as one, whole(tmp_path / "b") as other:
            assert one != other
            one.write_text("one")
            other.write_text("other")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    assert (tmp_path / "b").read_text() == "one"  # which ends last
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_no_module_writes_files_by_another_way():
    """Calls that write a file by name stand in blocks of `whole`, or in the module that defines it."""
    names = {"write_text", "write_bytes", "savez", "savez_compressed", "savetxt", "savefig", "dump"}
    found = set()
    for path in sorted((ROOT / "finetune").rglob("*.py")):
        tree = ast.parse(path.read_text())
        inside = {
            id(node)
            for block in ast.walk(tree)
            if isinstance(block, ast.With) and any("whole(" in ast.unparse(item) for item in block.items)
            for node in ast.walk(block)
        }
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or id(node) in inside or not isinstance(node.func, ast.Attribute):
                continue
            opened = node.func.attr == "open" and any(
                isinstance(word, ast.Constant) and str(word.value)[:1] in ("w", "a", "x") for word in node.args
            )
            saved = ast.unparse(node.func) in ("torch.save", "ase.io.write", "json.dump", "os.replace")
            if opened or saved or (node.func.attr in names and node.func.attr != "dump"):
                found.add(f"{path.relative_to(ROOT)}: {ast.unparse(node)[:60]}")
    assert found == {"finetune/md/files.py: ase.io.write(text, frame, format='extxyz')"}  # into memory
