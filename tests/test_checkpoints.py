"""One checkpoint format: written whole or not at all, read without executing anything, and the same model again."""

from __future__ import annotations

import os
import pickle
import resource
import shutil
import signal
from pathlib import Path

import pytest
import torch

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.chgnet import CHGNet
from finetune.errors import InputError
from finetune.files import sweep
from finetune.potential import Potential

from .contract import built
from .structures import of_family


def predict(potential: Potential) -> dict[str, torch.Tensor]:
    return potential(potential.collate([potential.graph(of_family("interface"))])).detach().known()


def assert_same_model(one: Potential, other: Potential) -> None:
    assert one.config() == other.config()
    expected = predict(one.eval())
    for name, value in predict(other.eval()).items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("backbone", models.backbones())
def test_a_saved_potential_is_the_same_when_loaded(tmp_path, backbone, dtype):
    single = " float32" if dtype == torch.float32 else ""
    potential = Shifted(built(backbone + single), {3: -1.25, 16: 0.1})
    potential.licence = "a licence"
    finetune.save(potential, tmp_path / "a folder" / "saved.pt", note="kept")
    again = finetune.load(tmp_path / "a folder" / "saved.pt")
    assert_same_model(potential, again)
    assert (again.dtype, again.licence, again.pretrained, again.training) == (dtype, "a licence", True, False)
    assert list((tmp_path / "a folder").iterdir()) == [tmp_path / "a folder" / "saved.pt"]


def test_a_checkpoint_holds_plain_data_only(tmp_path):
    finetune.save(built("mace"), tmp_path / "saved.pt")
    content = torch.load(tmp_path / "saved.pt", weights_only=True)
    assert content["format"] == models.FORMAT
    assert content["potential"]["class_path"] == "finetune.backbones.mace.MACE"
    assert all(isinstance(value, torch.Tensor) for value in content["state_dict"].values())


def test_the_foundation_is_not_needed_to_load_what_was_tuned_from_it(tmp_path):
    potential = CHGNet("r2scan")
    finetune.save(potential, tmp_path / "tuned.pt")
    content = torch.load(tmp_path / "tuned.pt", weights_only=True)
    assert content["potential"]["init_args"]["foundation"] is None
    assert_same_model(potential, finetune.load(tmp_path / "tuned.pt"))


def run_directory(path: Path, best: float | None, last: float | None) -> Path:
    """A run directory whose checkpoints differ in the reference energy of Li."""
    path.mkdir()
    for name, energy in ((models.BEST, best), (models.LAST, last)):
        if energy is not None:
            finetune.save(Shifted(CHGNet.tiny(), {3: energy}), path / name)
    return path


@pytest.mark.parametrize(("best", "last", "expected"), [(1.0, 2.0, 1.0), (1.0, None, 1.0), (None, 2.0, 2.0)])
def test_a_run_directory_is_its_best_checkpoint(tmp_path, best, last, expected):
    directory = run_directory(tmp_path / "run", best, last)
    for name in (directory, str(directory), f"{directory}{os.sep}"):
        assert finetune.load(name).references[3] == expected


def test_a_directory_without_checkpoint_is_refused(tmp_path):
    (tmp_path / "best.ckpt.0123456789ab.partial").write_bytes(b"half")
    with pytest.raises(InputError, match=r"holds no best\.ckpt or last\.ckpt"):
        finetune.load(tmp_path)


def test_what_a_killed_writer_left_is_never_read_and_does_not_stand_in_the_way(tmp_path):
    directory = run_directory(tmp_path / "run", 1.0, None)
    whole = (directory / models.BEST).read_bytes()
    (directory / "best.ckpt.0123456789ab.partial").write_bytes(whole[: len(whole) // 2])
    assert finetune.load(directory).references[3] == 1.0
    finetune.save(Shifted(CHGNet.tiny(), {3: 3.0}), directory / models.BEST)
    assert finetune.load(directory).references[3] == 3.0
    sweep(directory)
    assert [path.name for path in directory.iterdir()] == [models.BEST]


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_checkpoint_is_refused_by_name(tmp_path, share):
    finetune.save(CHGNet.tiny(), tmp_path / "cut.pt")
    whole = (tmp_path / "cut.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"cut\.pt is damaged or not a checkpoint"):
        finetune.load(tmp_path / "cut.pt")


@pytest.mark.parametrize("content", [b"text\n", b"\x80\x02garbage", b"PK\x03\x04" + bytes(100)])
def test_other_files_are_refused_by_name(tmp_path, content):
    (tmp_path / "other.ckpt").write_bytes(content)
    with pytest.raises(InputError, match=r"other\.ckpt"):
        finetune.load(tmp_path / "other.ckpt")


class Malicious:
    """Leaves a mark on the disk when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("how", ["pickle", "torch", "inside"])
def test_a_malicious_pickle_is_not_executed(tmp_path, how):
    mark, path = tmp_path / "executed", tmp_path / "evil.ckpt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Malicious(mark)))
    elif how == "torch":
        torch.save(Malicious(mark), path)
    else:
        content = models.packed(CHGNet.tiny())
        torch.save({**content, "extra": Malicious(mark)}, path)
    with pytest.raises(InputError, match=r"evil\.ckpt"):
        finetune.load(path)
    assert not mark.exists()
    torch.load(path, weights_only=False) if how != "pickle" else pickle.loads(path.read_bytes())
    assert mark.exists()  # it would have been


@pytest.mark.parametrize("name", ["{}", "mace:{}"])
def test_a_foreign_model_is_only_opened_when_it_is_trusted(tmp_path, name):
    mark, path = tmp_path / "executed", tmp_path / "evil.model"
    torch.save(Malicious(mark), path)
    with pytest.raises(InputError, match="is a Python pickle: reading it runs whatever code its author put in"):
        finetune.load(name.format(path))
    assert not mark.exists()
    with pytest.raises(InputError, match="only ScaleShiftMACE models are supported"):
        finetune.load(name.format(path), trusted=True)
    assert mark.exists()


@pytest.mark.filterwarnings("ignore")
def test_a_trusted_model_file_is_a_model(tmp_path):
    potential = built("mace float32")
    torch.save(potential.model, tmp_path / "their.model")
    again = finetune.load(f"mace:{tmp_path}/their.model", trusted=True)
    assert again.dtype == torch.float32
    assert_same_model(potential, again)


def test_only_classes_of_this_package_are_built(tmp_path):
    content = models.packed(CHGNet.tiny())
    content["potential"] = {"class_path": "subprocess.Popen", "init_args": {"args": ["touch", str(tmp_path / "mark")]}}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"names subprocess\.Popen, which is not a potential of this package"):
        finetune.load(tmp_path / "evil.pt")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "path",
    [
        "finetune.models.save",
        "finetune.nowhere.CHGNet",
        "finetune.backbones.chgnet.Nothing",
        "finetune.potential.Potential",
    ],
)
def test_a_checkpoint_that_names_no_potential_is_refused(tmp_path, path):
    content = models.packed(CHGNet.tiny())
    content["potential"]["class_path"] = path
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=path):
        finetune.load(tmp_path / "odd.pt")


def test_a_checkpoint_cannot_call_what_is_no_potential(tmp_path, capsys):
    content = models.packed(CHGNet.tiny())
    content["potential"] = {"class_path": "finetune.cli.main.main", "init_args": {"argv": ["--version"]}}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(InputError, match=r"finetune\.cli\.main\.main"):
        finetune.load(tmp_path / "evil.pt")
    assert capsys.readouterr().out == ""


def test_a_checkpoint_cannot_trust_a_foreign_pickle_in_the_name_of_the_user(tmp_path):
    mark, path = tmp_path / "executed", tmp_path / "evil.model"
    torch.save(Malicious(mark), path)
    content = models.packed(CHGNet.tiny())
    arguments = {"foundation": str(path), "trusted": True}
    content["potential"] = {"class_path": "finetune.backbones.mace.MACE", "init_args": arguments}
    torch.save(content, tmp_path / "evil.pt")
    with pytest.raises(InputError):
        finetune.load(tmp_path / "evil.pt")
    assert not mark.exists()


def test_weights_of_another_architecture_are_refused(tmp_path):
    content = models.packed(CHGNet.tiny())
    content["state_dict"].pop("model.mlp.layers.0.weight")
    torch.save(content, tmp_path / "odd.pt")
    with pytest.raises(InputError, match=r"weights in .*odd\.pt do not fit"):
        finetune.load(tmp_path / "odd.pt")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("chgnt", "unknown model 'chgnt'; did you mean 'chgnet'"),
        ("chgnet:0.4.0", "unknown CHGNet model '0.4.0'; did you mean '0.3.0'"),
        ("mace:mediun-mpa-0", "unknown MACE foundation model 'mediun-mpa-0'; did you mean 'medium-mpa-0'"),
        ("runs/nothing", "there is no model file or run directory runs/nothing"),
        ("nothing.ckpt", "there is no model file or run directory nothing.ckpt"),
        ("mace:nothing.model", "there is no file nothing.model"),
        ("nothing.model", "there is no file nothing.model"),
    ],
)
def test_unknown_names_are_told_with_the_nearest_known(tmp_path, monkeypatch, name, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        finetune.load(name)
    assert words in str(caught.value)


def test_a_full_disk_leaves_the_old_checkpoint_whole(tmp_path):
    directory = run_directory(tmp_path / "run", 1.0, None)
    size = (directory / models.BEST).stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # as on a full disk, write() fails with an error
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, before[1]))
        with pytest.raises(InputError, match=r"cannot write .*best\.ckpt .*free some space"):
            finetune.save(Shifted(CHGNet.tiny(), {3: 2.0}), directory / models.BEST)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert finetune.load(directory).references[3] == 1.0
    assert [path.name for path in directory.iterdir()] == [models.BEST]


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InputError, match=r"cannot write .*saved\.pt"):
        finetune.save(CHGNet.tiny(), tmp_path / "file" / "saved.pt")


def test_a_checkpoint_does_not_depend_on_where_it_lies(tmp_path):
    finetune.save(CHGNet.tiny(), tmp_path / "here.pt")
    shutil.move(tmp_path / "here.pt", tmp_path / "there.anything")
    assert finetune.load(tmp_path / "there.anything").cutoff == CHGNet.tiny().cutoff
