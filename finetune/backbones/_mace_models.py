"""Upstream MACE models: named, read, built from plain arguments, cut down; the part of mace that is no contract."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.backbones import _mace_files
from finetune.backbones._e3nn import o3
from finetune.errors import InputError, unknown

_environment = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # mace tells at import that cuEquivariance is not there
    from mace import modules
    from mace.calculators import foundations_models as foundations
    from mace.tools.finetuning_utils import load_foundations_elements
    from mace.tools.scripts_utils import extract_config_mace_model, remove_pt_head
    from mace.tools.utils import AtomicNumberTable, get_cache_dir

    logging.disable(logging.NOTSET)
# importing mace makes every later torch.load of this process unpickle anything; undo that
if _environment is None:
    os.environ.pop("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", None)

SHIPPED = {"mini": Path(__file__).parents[1] / "foundations" / "mace-mini.pt"}
OMOL = "https://github.com/ACEsuit/mace-foundations/releases/download/mace_omol_0/MACE-omol-0-extra-large-1024.model"
URLS = {**foundations.mace_mp_urls, "omol-extra-large": OMOL}
URLS |= {f"off-{size}": url for size, url in foundations.mace_off_urls.items()}
NAMES = (*SHIPPED, *URLS)
NON_COMMERCIAL = "ASL (academic, no commercial use)"
CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
BACKENDS = {"e3nn": None, "cueq": "cuequivariance_torch", "oeq": "openequivariance"}


def licence_of(name: str) -> str:
    """Licence of a named foundation model, as its authors state it."""
    restricted = ("omat", "matpes", "mh-", "off-", "omol")
    return NON_COMMERCIAL if any(word in name for word in restricted) else "MIT"


# what an architecture must give (radial_MLP has a default)
NEEDED = (
    "r_max",
    "num_bessel",
    "num_polynomial_cutoff",
    "max_ell",
    "interaction_cls",
    "num_interactions",
    "hidden_irreps",
    "MLP_irreps",
    "gate",
    "atomic_energies",
    "avg_num_neighbors",
    "atomic_numbers",
    "correlation",
    "atomic_inter_scale",
    "atomic_inter_shift",
)


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Mace builds its modules in torch's default dtype; set it for a moment and put the old one back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def build(architecture: Mapping[str, Any]) -> Any:
    """A ScaleShiftMACE with random weights from plain arguments."""
    arguments: dict[str, Any] = {"interaction_cls_first": architecture.get("interaction_cls"), **architecture}
    missing = sorted(set(NEEDED) - set(arguments))
    if missing:
        raise InputError(f"the MACE architecture lacks {', '.join(missing)}; name a foundation or give them")
    for key in CLASSES:
        if arguments.get(key):
            arguments[key] = getattr(modules, arguments[key])
    for key in IRREPS:
        if arguments.get(key):
            arguments[key] = o3.Irreps(arguments[key])
    arguments["gate"] = modules.gate_dict[arguments["gate"] or "None"]
    arguments["atomic_energies"] = np.array(arguments["atomic_energies"])
    arguments["num_elements"] = len(arguments["atomic_numbers"])
    for key in ("atomic_inter_scale", "atomic_inter_shift"):
        arguments[key] = np.array(arguments[key])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return modules.ScaleShiftMACE(**arguments)


def plain(model: Any) -> dict[str, Any]:
    """The arguments that rebuild a ScaleShiftMACE, in plain types."""
    arguments = extract_config_mace_model(model)
    gates = {gate: name for name, gate in modules.gate_dict.items()}
    plain: dict[str, Any] = {}
    for key, value in arguments.items():
        if key in CLASSES:
            value = value.__name__
        elif key in IRREPS:
            value = str(value) if value is not None else None
        elif key == "gate":
            value = next(
                (
                    name
                    for gate, name in gates.items()
                    if getattr(gate, "__name__", None) == getattr(value, "__name__", None)
                ),
                "silu",
            )
        elif isinstance(value, np.ndarray | Tensor):
            value = value.tolist()
        elif isinstance(value, np.generic):
            value = value.item()
        plain[key] = value
    return {key: value for key, value in plain.items() if key not in {"cueq_config", "oeq_config", "num_elements"}}


def foundation_model(name: str, trusted: bool) -> Any:
    """The upstream module behind a foundation's name or path."""
    if name in SHIPPED:
        return shipped(SHIPPED[name])
    if name in URLS:
        path = Path(downloaded(name))
    elif os.path.isfile(name):
        path = Path(name)
    elif name.endswith(".model") or os.sep in name:
        raise InputError(f"there is no file {name}; check the path")
    else:
        raise unknown("MACE foundation model", name, foundation_names())
    model = _mace_files.read_model(name if name in URLS else "", path, trusted, rebuilt)
    if type(model).__name__ != "ScaleShiftMACE":
        raise InputError(f"{path} holds a {type(model).__name__}; only ScaleShiftMACE models are supported")
    return model


def rebuilt(stored: Any) -> Any:
    """A ScaleShiftMACE with the architecture and the tensors of a stored one."""
    if type(stored) is not modules.ScaleShiftMACE:
        raise TypeError(f"it holds a {type(stored).__name__}")
    with default_dtype(next(stored.parameters()).dtype):
        return _mace_files.take_over(build(plain(stored)), stored)


def shipped(path: Path) -> Any:
    """The model of a checkpoint of this package; its reference energies become the model's atomic energies."""
    if not path.is_file():
        raise InputError(f"{path.name} is missing from the installation; install the package again")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    config, state = stored["potential"]["init_args"]["potential"], stored["state_dict"]
    model = build(config["init_args"]["architecture"])
    prefix = "potential.model."
    model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    model.atomic_energies_fn.atomic_energies += state["references"][model.atomic_numbers]
    return model


def foundation_names() -> list[str]:
    """All names that `MACE(foundation=...)` knows."""
    return [*SHIPPED, *URLS]


def downloaded(name: str) -> str:
    """Path of a named foundation model in mace's cache, downloaded by mace where it is not there."""
    url = URLS[name]
    stem = "".join(c for c in os.path.basename(url) if c.isalnum() or c == "_")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            return str(foundations.download_mace_mp_checkpoint(url))
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"mace:{name} is not in the cache and could not be downloaded ({error}). Fetch {url} where there is "
            f"network and put it at {Path(get_cache_dir()) / stem}; offline, mace:mini is shipped with this package"
        ) from error


def single_head(model: Any, head: str | None) -> Any:
    """The model with one head, the named one."""
    heads = list(getattr(model, "heads", ["Default"]))
    if head is not None and head not in heads:
        raise unknown("head", head, heads)
    if len(heads) == 1:
        return model
    if head is None:
        raise InputError(
            f"this MACE model has heads {', '.join(heads)}; name the one to use: mace:NAME@{heads[0]}, "
            f"or head: {heads[0]} in the config"
        )
    return remove_pt_head(model, head)


def cut(model: Any, numbers: list[int]) -> Any:
    """The same model with fewer elements."""
    table = [int(z) for z in model.atomic_numbers]
    missing = [z for z in numbers if z not in table]
    if missing:
        raise InputError(f"elements {missing} (atomic numbers) are not in the foundation's table {table}")
    whole = plain(model)
    rows = [table.index(z) for z in numbers]
    energies = np.atleast_2d(np.array(whole["atomic_energies"]))[:, rows]
    small = build({**whole, "atomic_numbers": numbers, "atomic_energies": energies.tolist()})
    lmax = max(l for _, (l, _) in o3.Irreps(whole["hidden_irreps"]))
    return load_foundations_elements(small, model, AtomicNumberTable(numbers), load_readout=True, max_L=lmax)


def accelerate(model: Any, backend: str) -> Any:
    """The model on the kernels of cuEquivariance or OpenEquivariance, by mace's own converters."""
    package = BACKENDS[backend]
    if package is None:
        return model
    if importlib.util.find_spec(package) is None:
        raise InputError(f"backend: {backend} needs {package}; pip install 'finetune-interface[{backend}]'")
    from mace.cli import convert_e3nn_cueq, convert_e3nn_oeq

    converter = convert_e3nn_cueq if backend == "cueq" else convert_e3nn_oeq
    return converter.run(model, device="cuda" if torch.cuda.is_available() else "cpu")
