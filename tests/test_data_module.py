"""FrameData under a Trainer: the right frames, each once, in an order that seed and epoch decide."""

import json
from pathlib import Path

import ase.io
import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from finetune.backbones.chgnet import CHGNet
from finetune.data.frames import data_hash
from finetune.data.module import FrameData
from finetune.data.reading import read
from finetune.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:`isinstance.treespec, LeafSpec.` is deprecated")
FOLDER = Path(__file__).parents[1] / "data" / "starting"
FILES = {part: str(FOLDER / f"{part}.extxyz") for part in ("train", "valid", "test")}


class Stop(Exception):
    """An interruption in mid-epoch."""


class Recorder(lightning.LightningModule):
    """Fits energies and writes down which frames it saw."""

    def __init__(self, stop_at=None):
        super().__init__()
        self.potential = CHGNet.tiny()
        self.stop_at = stop_at
        self.seen = []
        self.written = None

    def training_step(self, batch, batch_idx):
        if self.stop_at == (self.current_epoch, batch_idx):
            raise Stop
        self.seen.append((self.current_epoch, batch.frames.tolist()))
        energy = self.potential.energies({**batch.graph, "vectors": vectors(batch.graph)})[0]
        return ((energy - batch.labels.energy) / batch.n_atoms).square().mean()

    def validation_step(self, batch, batch_idx):
        self.seen.append(("valid", batch.frames.tolist()))

    def test_step(self, batch, batch_idx):
        self.seen.append(("test", batch.frames.tolist()))

    def predict_step(self, batch, batch_idx):
        return batch.frames

    def on_fit_end(self):
        if self.written is not None:
            (self.written / f"seen-{self.global_rank}.json").write_text(json.dumps(self.seen))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1e-6)


def vectors(graph):
    i, j = graph["edge_index"]
    return (
        graph["positions"][j]
        - graph["positions"][i]
        + torch.einsum("ei,eij->ej", graph["shifts"], graph["cell"][graph["batch"][i]])
    )


def trainer(tmp_path, **more):
    settings = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "reload_dataloaders_every_n_epochs": 1,
        "num_sanity_val_steps": 0,
        "default_root_dir": tmp_path,
    }
    return lightning.Trainer(**{**settings, **more})


def numbers(seen, epoch):
    return sorted(i for e, frames in seen if e == epoch for i in frames)


def test_fit_sees_every_training_frame_once_per_epoch_in_another_order(tmp_path):
    model = Recorder()
    trainer(tmp_path, max_epochs=2).fit(model, datamodule=FrameData(**FILES))
    assert numbers(model.seen, 0) == numbers(model.seen, 1) == list(range(44))
    first, second = ([frames for e, frames in model.seen if e == epoch] for epoch in (0, 1))
    assert first != second
    valid = [frames for e, frames in model.seen if e == "valid"]
    assert valid[: len(valid) // 2] == valid[len(valid) // 2 :]
    assert numbers(model.seen, "valid") == sorted(2 * list(range(8)))


def test_a_fit_resumed_in_mid_epoch_sees_what_an_uninterrupted_one_sees(tmp_path):
    def fit(folder, model, **more):
        saver = ModelCheckpoint(tmp_path / folder, "last", every_n_train_steps=1, enable_version_counter=False)
        runner = trainer(tmp_path, max_epochs=3, enable_checkpointing=True, callbacks=[saver])
        runner.fit(model, datamodule=FrameData(**FILES, batch_edges=4000), **more)

    whole, broken, resumed = Recorder(), Recorder(stop_at=(1, 4)), Recorder()
    fit("whole", whole)
    with pytest.raises(Stop):
        fit("broken", broken)
    (tmp_path / "broken" / "last.ckpt").rename(tmp_path / "last.ckpt")
    with pytest.warns(UserWarning, match="The dirpath has changed"):
        fit("resumed", resumed, ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    trained = [[entry for entry in run.seen if entry[0] != "valid"] for run in (whole, broken, resumed)]
    assert len(trained[1]) > 4
    assert trained[0] == trained[1] + trained[2]


def test_test_and_predict_run_over_their_frames_in_order(tmp_path):
    model, data = Recorder(), FrameData(test=FILES["test"], predict=FILES["valid"], batch_edges=2000)
    trainer(tmp_path).test(model, datamodule=data)
    assert numbers(model.seen, "test") == list(range(12))
    predicted = trainer(tmp_path).predict(model, datamodule=data)
    assert sorted(torch.cat(predicted).tolist()) == list(range(8))
    assert len(predicted) > 1


def test_batches_carry_the_labels_of_their_frames():
    data = FrameData(test=FILES["test"]).prepare(CHGNet.tiny())
    data.setup("test")
    for batch in data.test_dataloader():
        for row, frame in enumerate(batch.frames.tolist()):
            assert batch.labels.energy[row] == data.test_frames[frame].labels.energy[0]
        starts = [int(n) for n in batch.n_atoms.cumsum(0)]
        last = data.test_frames[int(batch.frames[-1])]
        torch.testing.assert_close(batch.labels.forces[starts[-1] - len(last.atoms) :], last.labels.forces)
        torch.testing.assert_close(batch.graph["numbers"][-len(last.atoms) :], torch.tensor(last.atoms.numbers))


def test_valid_and_test_are_split_off_train_by_group_if_they_have_no_files():
    data = FrameData(train=FILES["train"], split=(0.6, 0.2, 0.2))
    groups = [{frame.group for frame in part} for part in (data.train_frames, data.valid_frames, data.test_frames)]
    assert all(groups)
    assert len(set.union(*groups)) == sum(map(len, groups))
    assert sum(map(len, (data.train_frames, data.valid_frames, data.test_frames))) == 44


def test_files_of_their_own_leave_the_training_file_whole():
    data = FrameData(**FILES, split=(0.6, 0.2, 0.2))
    assert [len(part) for part in (data.train_frames, data.valid_frames, data.test_frames)] == [44, 8, 12]


def test_a_fraction_of_the_training_frames_leaves_the_others_alone():
    data = FrameData(train=FILES["train"], valid=FILES["valid"], fraction=0.25)
    assert (len(data.train_frames), len(data.valid_frames)) == (11, 8)


def test_the_data_hash_does_not_depend_on_the_order_of_files():
    paths = [FILES["train"], FILES["valid"]]
    one, two = FrameData(train=paths), FrameData(train=paths[::-1])
    assert one.train_frames
    assert two.valid_frames
    assert one.data_hash() == two.data_hash() == data_hash(read(paths))
    assert one.state_dict() == {"data_hash": one.data_hash()}


@pytest.mark.parametrize(
    ("part", "remedy"), [("test", r"--data\.test.*share above 0 for test"), ("predict", r"--data\.predict$")]
)
def test_frames_that_nobody_named_are_asked_for(part, remedy):
    with pytest.raises(InputError, match=remedy):
        FrameData(train=FILES["train"]).frames(part)


def test_nothing_at_all_is_refused():
    with pytest.raises(InputError, match=r"no train frames; give --data\.train$"):
        FrameData().train_frames  # noqa: B018


def test_a_test_frame_among_the_training_frames_is_refused_at_the_start(tmp_path):
    ase.io.write(tmp_path / "train.extxyz", [*ase.io.read(FILES["train"], ":"), ase.io.read(FILES["test"], 3)])
    data = FrameData(str(tmp_path / "train.extxyz"), FILES["valid"], FILES["test"]).prepare(CHGNet.tiny())
    with pytest.raises(InputError, match=r"stand in both train and test, first frame 44 of .* and frame 3 of"):
        data.setup("fit")


def test_graphs_without_a_potential_are_refused():
    with pytest.raises(InputError, match="call prepare"):
        FrameData(train=FILES["train"]).graphs("train")


@pytest.mark.filterwarnings("ignore:.*use of fork.* may lead to deadlocks:DeprecationWarning")
def test_two_processes_share_the_frames_of_an_epoch(tmp_path):
    model = Recorder()
    model.written = tmp_path
    ddp = trainer(
        tmp_path, max_epochs=1, strategy="ddp_fork_find_unused_parameters_true", devices=2, limit_val_batches=0
    )
    ddp.fit(model, datamodule=FrameData(**FILES, batch_edges=4000))
    seen = [json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in range(2)]
    assert len(seen[0]) == len(seen[1])
    assert sorted(numbers(seen[0], 0) + numbers(seen[1], 0)) == list(range(44))


def test_seed_everything_changes_the_order_but_not_the_split(tmp_path, monkeypatch):
    orders, held_out = [], []
    for seed in ("1", "2", "1"):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        data = FrameData(train=FILES["train"], split=(0.8, 0.2, 0.0))
        model = Recorder()
        trainer(tmp_path, max_epochs=1).fit(model, datamodule=data)
        orders.append([frames for epoch, frames in model.seen if epoch == 0])
        held_out.append(data_hash(data.frames("valid")))
    assert orders[0] == orders[2] != orders[1]
    assert len(set(held_out)) == 1
