"""A directory that was downloaded, in which a command is run: modules, repositories and settings that lie in it."""

from __future__ import annotations

import subprocess

import ase.io
import pytest

from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.chgnet import CHGNet
from finetune.errors import InputError
from finetune.labelling import dask
from finetune.training.run import git_revision
from finetune.training.wandb_log import check_workspace

from ..commands import labelled
from ..structures import ROOT
from .payload import finetune, module

# packages that dependencies import where they are installed, and modules of the standard library
NAMES = (
    "uarray",
    "bson",
    "triton",
    "cupy",
    "tblite",
    "orjson",
    "ujson",
    "sitecustomize",
    "torch",
    "numpy",
    "re",
    "git",
)


@pytest.fixture
def mark(tmp_path):
    """The file that a payload creates."""
    return tmp_path / "executed"


@pytest.fixture
def downloaded(tmp_path, mark):
    """A run with modules of many names beside it."""
    place = tmp_path / "downloaded"
    for name in NAMES:
        module(place / f"{name}.py", mark)
    models.save(Shifted(CHGNet.tiny()), place / "best.ckpt")
    ase.io.write(place / "test.extxyz", labelled("test"))
    return place


def test_no_module_of_the_working_directory_is_imported(downloaded, mark):
    done = finetune("evaluate", ".", "test.extxyz", cwd=downloaded)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def hostile_repository(place, mark) -> None:
    """A repository whose configuration and attributes name programs."""
    program = place / "program.sh"
    program.write_text(f"#!/bin/sh\ntouch {mark}\n")
    program.chmod(0o755)
    git = ("git", "-c", "user.name=a", "-c", "user.email=a@b.c")
    subprocess.run([*git, "init", "-q"], cwd=place, check=True)
    (place / "tracked.txt").write_text("one\n")
    (place / ".gitattributes").write_text("*.txt filter=f diff=d\n")
    subprocess.run([*git, "add", "-A"], cwd=place, check=True)
    subprocess.run([*git, "commit", "-qm", "one"], cwd=place, check=True)
    (place / "tracked.txt").write_text("two\n")
    for key in (
        "core.fsmonitor",
        "filter.f.clean",
        "filter.f.smudge",
        "diff.external",
        "diff.d.textconv",
        "core.pager",
    ):
        subprocess.run(["git", "config", key, str(program)], cwd=place, check=True)
    hook = place / ".git" / "hooks" / "post-index-change"
    hook.write_text(program.read_text())
    hook.chmod(0o755)
    mark.unlink(missing_ok=True)


def test_git_runs_no_program_of_a_repository_in_the_working_directory(tmp_path, mark, monkeypatch):
    place = tmp_path / "repository"
    place.mkdir()
    hostile_repository(place, mark)
    monkeypatch.chdir(place)
    monkeypatch.setenv("GIT_DIR", str(place / ".git"))
    found = git_revision()
    assert not mark.exists()
    monkeypatch.delenv("GIT_DIR")
    own = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found is None or found.removesuffix("-dirty") == own.stdout.strip()
    subprocess.run(["git", "status"], cwd=place, check=True, capture_output=True)
    assert mark.exists()  # it would have been


def test_a_package_that_is_installed_without_its_repository_has_no_revision(tmp_path):
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    (tmp_path / "site-packages").mkdir()
    assert git_revision(tmp_path / "site-packages") is None


@pytest.mark.parametrize("folder", ["wandb", ".wandb"])
@pytest.mark.parametrize("line", ["base_url = https://evil.example", "https_proxy = http://evil.example:1"])
def test_settings_of_wandb_in_the_working_directory_cannot_send_the_key_elsewhere(tmp_path, folder, line):
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "settings").write_text(f"[default]\nproject = interface\n{line}\n")
    with pytest.raises(InputError, match=line.split(" ")[0]):
        check_workspace(tmp_path)


def test_settings_that_wandb_init_writes_are_accepted(tmp_path):
    (tmp_path / "wandb").mkdir()
    text = "[default]\nentity = me\nproject = interface\nbase_url = https://api.wandb.ai\n"
    (tmp_path / "wandb" / "settings").write_text(text)
    check_workspace(tmp_path)
    check_workspace(tmp_path / "nowhere")


@pytest.mark.filterwarnings("default")
def test_a_local_dask_cluster_listens_on_this_machine_only():
    executor = dask(workers=1)
    try:
        client = executor._client
        scheduler = client.cluster.scheduler
        assert scheduler.address.startswith("tcp://127.0.0.1:")
        assert scheduler.http_server is not None
        sockets = [one for server in [scheduler.http_server] for one in server._sockets.values()]
        assert sockets
        assert {one.getsockname()[0] for one in sockets} == {"127.0.0.1"}
        assert all(worker.startswith("tcp://127.0.0.1:") for worker in client.scheduler_info()["workers"])
    finally:
        client.close()
        client.cluster.close()
