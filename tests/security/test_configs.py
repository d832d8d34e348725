"""A configuration that was downloaded: classes that it names, programs that it starts, keys that it sends elsewhere."""

from __future__ import annotations

import json
import os
import re

import ase.io
import numpy as np
import pytest
import torch
import yaml
from ase import Atoms
from ase.calculators.lj import LennardJones

import finetune
from finetune import models
from finetune.adapting import Shifted
from finetune.backbones.chgnet import CHGNet

from ..commands import CONFIGS, THEIR_WARNINGS, command, labelled, write_parts
from .payload import Marking, module
from .payload import finetune as of_its_own

pytestmark = THEIR_WARNINGS
CLASS = "class Payload:\n    def __init__(self, *given, **named):\n        pass\n"


@pytest.fixture
def mark(tmp_path):
    """The file that a payload creates."""
    return tmp_path / "executed"


@pytest.fixture
def here(tmp_path, mark, monkeypatch):
    """A working directory with a module that creates the file when it is imported, and a structure."""
    place = tmp_path / "downloaded"
    module(place / "payload_of_a_config.py", mark, CLASS)
    ase.io.write(place / "frames.extxyz", [Atoms("Li2", [(0, 0, 0), (0, 0, 2.8)], cell=[6, 6, 6], pbc=True)])
    monkeypatch.chdir(place)
    return place


def written(place, content) -> str:
    (place / "config.yaml").write_text(yaml.safe_dump(content))
    return "config.yaml"


TRUSTING = {
    "fit": {"class_path": "finetune.backbones.mace.MACE", "init_args": {"foundation": "evil.model", "trusted": True}},
    "compare": {"class_path": "finetune.comparison.Model", "init_args": {"model": "evil.model", "trusted": True}},
}
COST = {"class_path": "finetune.comparison.Cost", "init_args": {"structures": ["frames.extxyz"]}}
PAYLOAD = {"class_path": "payload_of_a_config.Payload"}
CASES = {
    "logger": ("fit", {"trainer": {"logger": PAYLOAD}}),
    "logger by name": ("fit", {"trainer": {"logger": PAYLOAD["class_path"]}}),
    "callback": ("fit", {"trainer": {"callbacks": [PAYLOAD]}}),
    "plugin": ("fit", {"trainer": {"plugins": [PAYLOAD]}}),
    "potential": ("fit", {"model": {"potential": PAYLOAD}}),
    "optimizer": ("predict", {"model": {"optimizer": PAYLOAD}}),
    "labeller": ("label", {"labeller": PAYLOAD}),
    "executor": ("label", {"executor": PAYLOAD}),
    "calculator": ("md", {"calculator": PAYLOAD}),
    "guard": ("md", {"guards": [PAYLOAD]}),
    "sampler": ("sample", {"recipes": [{"family": "a", "frames": 1, "samplers": [PAYLOAD]}]}),
    "explorer": ("learn", {"explorer": PAYLOAD}),
    "observable": ("compare", {"observables": [PAYLOAD]}),
    "column": ("compare", {"columns": {"a": PAYLOAD}}),
    "a module of the standard library": ("fit", {"trainer": {"logger": {"class_path": "antigravity.Payload"}}}),
}


@pytest.mark.parametrize("case", CASES)
def test_a_class_of_a_config_is_not_imported_without_allow(here, mark, capsys, case):
    name, content = CASES[case]
    first = ("frames.extxyz", "--output", "out.extxyz") if name == "label" else ()
    status = command(name, *first, "-c", written(here, content))
    told = capsys.readouterr().err
    assert not mark.exists()
    assert status in (1, 2)
    assert "Traceback" not in told
    if case != "logger by name":
        assert "add --allow" in told


def test_a_class_that_is_allowed_is_found_in_the_working_directory_and_nowhere_else_on_the_path(here, mark, capsys):
    assert command("fit", "-c", written(here, CASES["logger"][1]), "--allow", "payload_of_a_config.Payload") == 2
    assert mark.exists()
    assert "Logger" in capsys.readouterr().err  # it is none
    with pytest.raises(ModuleNotFoundError):
        __import__("another_of_a_config")


@pytest.mark.parametrize(
    ("calculator", "settings"),
    [
        ("finetune.files.write_text", {"path": "{mark}", "text": "written"}),
        ("finetune.cli.main.main", {"argv": ["models"]}),
        ("os.system", {"command": "touch {mark}"}),
        ("subprocess.getoutput", {"cmd": "touch {mark}"}),
        ("ase.calculators.vasp.Vasp", {"command": "touch {mark}"}),
        ("ase.calculators.cp2k.CP2K", {"command": "touch {mark}"}),
        (
            "ase.calculators.espresso.Espresso",
            {
                "profile": {
                    "class_path": "ase.calculators.espresso.EspressoProfile",
                    "init_args": {"command": "touch {mark}", "pseudo_dir": "."},
                }
            },
        ),
        (
            "ase.calculators.lj.LennardJones",
            {"sigma": {"class_path": "os.system", "init_args": {"command": "touch {mark}"}}},
        ),
        ("finetune.calculator", {"model": "{model}", "trusted": True}),
    ],
)
@pytest.mark.parametrize("name", ["label", "compare"])
def test_a_calculator_of_a_config_starts_no_program_and_writes_no_file(here, mark, capsys, name, calculator, settings):
    torch.save(Marking(mark), here / "evil.model")
    text = json.dumps(settings).replace("{mark}", str(mark)).replace("{model}", str(here / "evil.model"))
    built = {"settings": json.loads(text)}
    if name == "label":
        labeller = {"class_path": "finetune.labelling.Calculated", "init_args": {"calculator": calculator, **built}}
        executor = {"class_path": "concurrent.futures.ThreadPoolExecutor", "init_args": {"max_workers": 1}}
        content, words = {"labeller": labeller, "executor": executor}, ("frames.extxyz", "--output", "out.extxyz")
    else:
        foreign = {"class_path": "finetune.comparison.Foreign", "init_args": {"calculator_class": calculator, **built}}
        content, words = {"columns": {"a": foreign}, "observables": [COST]}, ("--output", "out")
    status = command(name, *words, "-c", written(here, content))
    told = capsys.readouterr()
    assert not mark.exists()
    assert status != 0
    assert "Traceback" not in told.err
    assert "--allow" in told.err or "--trusted" in told.err + told.out


def test_a_calculator_that_starts_a_program_works_once_it_is_allowed(here, mark, capsys):
    """The command line says so, and the program that the config names is started."""
    settings = {"command": f"touch {mark}", "xc": "PBE", "directory": "{directory}"}
    labeller = {"class_path": "finetune.labelling.Calculated"}
    labeller["init_args"] = {"calculator": "ase.calculators.vasp.Vasp", "settings": settings}
    executor = {"class_path": "concurrent.futures.ThreadPoolExecutor", "init_args": {"max_workers": 1}}
    config = written(here, {"labeller": labeller, "executor": executor})
    (here / "potpaw_PBE" / "Li").mkdir(parents=True)
    (here / "potpaw_PBE" / "Li" / "POTCAR").write_text("  PAW_PBE Li\n")
    os.environ["VASP_PP_PATH"] = str(here)
    try:
        command("label", "frames.extxyz", "--output", "o.extxyz", "-c", config, "--allow", "ase.calculators.vasp.Vasp")
    finally:
        del os.environ["VASP_PP_PATH"]
    assert mark.exists(), capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("fit", {"model": {"potential": TRUSTING["fit"]}}),
        ("evaluate", {"model": "evil.model", "file": "frames.extxyz", "trusted": True}),
        ("grade", {"model": "evil.model", "file": "frames.extxyz", "output": "out.pt", "trusted": True}),
        (
            "compare",
            {
                "columns": {"a": TRUSTING["compare"]},
                "observables": [COST],
                "output": "out",
            },
        ),
        ("md", {"calculator": "evil.model", "structure": "frames.extxyz", "directory": "md", "stages": []}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_trust_in_a_pickle_is_not_taken_from_a_config(here, mark, capsys, name, content):
    torch.save(Marking(mark), here / "evil.model")
    if name == "fit":
        ase.io.write(here / "train.extxyz", labelled("train"))
        content["data"] = {"train": "train.extxyz"}
    option = "-c" if name in ("fit", "compare", "md") else "--config"
    assert command(name, option, written(here, content)) != 0
    assert not mark.exists()
    told = capsys.readouterr()
    assert "Traceback" not in told.err
    assert "--trusted" in told.err + told.out


def test_trust_in_a_pickle_is_taken_from_the_command_line(here, mark, capsys):
    torch.save(Marking(mark), here / "evil.model")
    assert command("evaluate", "evil.model", "frames.extxyz", "--trusted") == 1
    assert mark.exists()
    assert "ScaleShiftMACE" in capsys.readouterr().err


@pytest.mark.parametrize("how", ["settings", "other logger"])
def test_a_logger_of_a_config_cannot_name_the_host_that_the_key_goes_to(here, capsys, how):
    logger = {
        "settings": {
            "class_path": "lightning.pytorch.loggers.WandbLogger",
            "init_args": {"offline": True, "save_dir": "w", "settings": {"base_url": "http://127.0.0.1:9"}},
        },
        "other logger": {
            "class_path": "lightning.pytorch.loggers.MLFlowLogger",
            "init_args": {"tracking_uri": "http://127.0.0.1:9"},
        },
    }[how]
    files = {part: str(path) for part, path in write_parts(here).items()}
    config = written(here, {"trainer": {"logger": logger}, "data": files})
    assert command("fit", *CONFIGS, "-c", config, "--trainer.default_root_dir", "run") in (1, 2)
    assert "--allow lightning.pytorch.loggers." in capsys.readouterr().err
    assert not (here / "w").exists()


def test_a_config_cannot_name_a_scheduler_whose_answers_are_pickles(here, capsys):
    labeller = {"class_path": "finetune.labelling.Calculated"}
    labeller["init_args"] = {"calculator": "ase.calculators.lj.LennardJones"}
    executor = {"class_path": "finetune.labelling.dask", "init_args": {"address": "tcp://127.0.0.1:9"}}
    config = written(here, {"labeller": labeller, "executor": executor})
    assert command("label", "frames.extxyz", "--output", "out.extxyz", "-c", config) in (1, 2)
    assert "--allow finetune.labelling.dask" in capsys.readouterr().err


def test_a_plain_calculator_needs_no_permission(here):
    labeller = {"class_path": "finetune.labelling.Calculated"}
    labeller["init_args"] = {
        "calculator": "ase.calculators.lj.LennardJones",
        "settings": {"sigma": 2.0, "epsilon": 0.1},
    }
    executor = {"class_path": "concurrent.futures.ThreadPoolExecutor", "init_args": {"max_workers": 1}}
    config = written(here, {"labeller": labeller, "executor": executor})
    assert command("label", "frames.extxyz", "--output", "out.extxyz", "-c", config) == 0
    atoms = ase.io.read(here / "frames.extxyz")
    atoms.calc = LennardJones(sigma=2.0, epsilon=0.1)
    assert ase.io.read(here / "out.extxyz").info["REF_energy"] == pytest.approx(atoms.get_potential_energy())


@pytest.fixture
def run(here, mark):
    """A run directory that was downloaded: a sound checkpoint, and a config that names classes."""
    place = here / "run"
    models.save(Shifted(CHGNet.tiny()), place / "best.ckpt")
    loaded = torch.load(place / "best.ckpt", weights_only=True)
    assert set(loaded) >= {"potential", "state_dict"}
    torch.save(Marking(mark), here / "evil.model")
    potential = {
        "class_path": "finetune.backbones.mace.MACE",
        "init_args": {"foundation": str(here / "evil.model"), "trusted": True},
    }
    files = {part: str(path) for part, path in write_parts(here).items()}
    content = {
        "trainer": {"logger": PAYLOAD, "callbacks": [PAYLOAD], "plugins": [PAYLOAD], "default_root_dir": str(here)},
        "model": {"potential": potential, "optimizer": PAYLOAD, "loss": {"kind": "mae", "energy": 2.0, "stress": 0.0}},
        "data": {
            **files,
            "keys": {"energy": "REF_energy", "stress": None},
            "batch_edges": 700,
            "cache": str(here / "c"),
        },
        "seed_everything": PAYLOAD,
    }
    (place / "config.yaml").write_text(yaml.safe_dump(content))
    return place


@pytest.mark.parametrize("name", ["validate", "test"])
def test_validate_and_test_take_a_run_alone_and_of_its_config_only_plain_data(run, here, mark, capsys, name):
    assert command(name, run, "--trainer.accelerator", "cpu") == 0
    assert not mark.exists()
    assert not (here / "c").exists()
    said = capsys.readouterr().out
    part = {"validate": "valid", "test": "test"}[name]
    assert f"{part}/loss" in said
    assert re.search(rf"{part}/stress_loss\W+0\.0\W", said)  # the config leaves this label out


def test_predict_takes_a_run_and_files(run, here, mark):
    atoms = labelled("test")[:2]
    ase.io.write(here / "mine.extxyz", atoms)
    assert command("predict", run, "mine.extxyz", "--trainer.accelerator", "cpu") == 0
    assert not mark.exists()
    there = ase.io.read(run / "predictions.extxyz", ":")
    potential = finetune.calculator(str(run), device="cpu")
    for one, predicted in zip(atoms, there, strict=True):
        one.calc = potential
        assert predicted.get_potential_energy() == pytest.approx(one.get_potential_energy(), rel=1e-5)
        np.testing.assert_allclose(predicted.get_forces(), one.get_forces(), atol=1e-4)


@pytest.mark.parametrize(
    ("data", "word"),
    [
        ({"batch_edges": "!!python/name:os.system"}, "batch_edges"),
        ({"valid": [{"class_path": "payload_of_a_config.Payload"}]}, "data.valid"),
        ({"units": "no"}, "units"),
        ("[", "config.yaml"),
    ],
)
def test_a_run_with_another_kind_of_value_is_refused_in_one_line(run, mark, capsys, data, word):
    content = yaml.safe_load((run / "config.yaml").read_text())
    text = data if isinstance(data, str) else yaml.safe_dump({**content, "data": {**content["data"], **data}})
    (run / "config.yaml").write_text(text)
    assert command("validate", run) == 1
    assert not mark.exists()
    told = capsys.readouterr().err
    assert word in told
    assert told.count("\n") == 1


def test_evaluate_reads_nothing_but_the_checkpoint_of_a_run(run, here, mark, capsys):
    assert command("evaluate", run, here / "test.extxyz") == 0
    assert not mark.exists()
    assert "meV/Å" in capsys.readouterr().out


def test_workers_inherit_what_was_allowed_and_nothing_else(here, mark, tmp_path):
    """A calculator of the working directory computes in a process of its own; modules beside it are not imported."""
    (here / "calculator_of_mine.py").write_text("from ase.calculators.lj import LennardJones as Mine\n")
    for name in ("multiprocessing", "uarray", "bson", "triton", "torch", "numpy", "re"):
        module(here / f"{name}.py", mark)
    labeller = {"class_path": "finetune.labelling.Calculated", "init_args": {"calculator": "calculator_of_mine.Mine"}}
    executor = {"class_path": "finetune.labelling.Processes", "init_args": {"workers": 1}}
    config = written(here, {"labeller": labeller, "executor": executor})
    words = ("label", "frames.extxyz", "--output", "out.extxyz", "-c", config)
    refused = of_its_own(*words, cwd=here)
    assert refused.returncode == 1, refused.stderr
    assert "--allow calculator_of_mine.Mine" in refused.stderr
    done = of_its_own(*words, "--allow", "calculator_of_mine.Mine", cwd=here)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
