"""MACE (arXiv 2206.07697; foundation models arXiv 2401.00096): translation in and out of `mace-torch`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import os
import pickle
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.data import atomic_numbers as number_of
from jaxtyping import Float
from torch import Tensor, nn

from finetune.errors import InputError, unknown
from finetune.graph import Graph, neighbour_graph
from finetune.potential import Potential

torch.serialization.add_safe_globals([slice])  # e3nn 0.4 reads its constants with weights_only
_environment = os.environ.get("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD")
with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)  # mace tells at import that cuEquivariance is not there
    from e3nn import o3
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
NON_COMMERCIAL = "ASL (academic, no commercial use)"
CLASSES = ("interaction_cls", "interaction_cls_first", "readout_cls")
IRREPS = ("hidden_irreps", "MLP_irreps", "edge_irreps")
BACKENDS = {"e3nn": None, "cueq": "cuequivariance_torch", "oeq": "openequivariance"}


def licence_of(name: str) -> str:
    """Licence of a named foundation model, as its authors state it."""
    restricted = ("omat", "matpes", "mh-", "off-", "omol")
    return NON_COMMERCIAL if any(word in name for word in restricted) else "MIT"


class MACE(Potential):
    """MACE, an equivariant message-passing network of atomic cluster expansions.

    Args:
        foundation: `mini` (shipped), a name of mace-torch's foundation models (`medium-mpa-0`, `small`, `mh-1`, ...;
            downloaded once by mace), the path of a `.model` file, or null for random weights in the given architecture.
        head: the head of a multi-head foundation to keep; needed where there are several.
        elements: chemical symbols to keep of the foundation's element table, or null to keep them all.
        architecture: arguments of `mace.modules.ScaleShiftMACE` in plain types; only where `foundation` is null.
        dtype: `float32` or `float64`.
        backend: `e3nn`, or `cueq` (cuEquivariance) or `oeq` (OpenEquivariance) where installed.
        trusted: a `.model` file is a pickle, and reading one runs code that its author chose; true says you trust it.
    """

    groups = {  # noqa: RUF012
        "embedding": ("model.node_embedding", "model.radial_embedding", "model.joint_embedding"),
        "interactions": ("model.interactions", "model.products"),
        "readouts": ("model.readouts", "model.embedding_readout"),
    }

    def __init__(
        self,
        foundation: str | None = "mini",
        head: str | None = None,
        elements: Sequence[str] | None = None,
        architecture: dict[str, Any] | None = None,
        dtype: str = "float32",
        backend: str = "e3nn",
        trusted: bool = False,
    ) -> None:
        super().__init__()
        self.model: Any
        self.rows: Tensor
        if backend not in BACKENDS:
            raise unknown("MACE backend", backend, BACKENDS)
        if foundation is not None and architecture is not None:
            raise InputError("architecture goes with foundation: null only; leave one of them out")
        with default_dtype(getattr(torch, dtype)):
            model = _build(architecture or {}) if foundation is None else _foundation(foundation, trusted)
            model = _single_head(model.to(getattr(torch, dtype)), head)
            if elements is not None:
                model = _cut(model, sorted(number_of[symbol] for symbol in elements))
            self.architecture, self.backend = _plain(model), backend
            self.model = _accelerate(model, backend)
        self.licence = licence_of(foundation) if foundation in URLS else "see the foundation model's card"
        if foundation in URLS and self.licence == NON_COMMERCIAL:
            warnings.warn(f"mace:{foundation} is under the {NON_COMMERCIAL}; so is what is tuned from it", stacklevel=2)
        self.pretrained = foundation is not None
        self.cutoff = float(self.model.r_max)
        self.elements = frozenset(int(z) for z in self.model.atomic_numbers)
        rows = torch.full((120,), -1)
        rows[self.model.atomic_numbers] = torch.arange(len(self.model.atomic_numbers))
        self.register_buffer("rows", rows, persistent=False)
        self.model.requires_grad_(True)

    def graph(self, atoms: Atoms) -> Graph:
        """Neighbours within the cutoff of the first message."""
        self.check_elements(atoms)
        return neighbour_graph(atoms, self.cutoff)

    def energies(self, graph: Graph) -> tuple[Tensor, Tensor, None]:
        """Energies per structure and per atom (eV); MACE has no magnetic moments."""
        out = self.model(self._translate(graph), training=self.training, compute_force=False)
        per_atom = out["node_energy"].double()
        energy = per_atom.new_zeros(len(graph["n_atoms"])).index_add(0, graph["batch"], per_atom)
        return energy, per_atom, None

    def _translate(self, graph: Graph) -> dict[str, Tensor]:
        """Mace's own dictionary; edge vectors enter as shifts between atoms at the origin."""
        numbers, batch = graph["numbers"], graph["batch"]
        counts = graph["n_atoms"]
        return {
            "positions": numbers.new_zeros(len(numbers), 3, dtype=self.dtype),
            "shifts": graph["vectors"].to(self.dtype),
            "unit_shifts": graph["shifts"].to(self.dtype),
            "cell": graph["cell"].reshape(-1, 3).to(self.dtype),
            "edge_index": graph["edge_index"],
            "node_attrs": nn.functional.one_hot(self.rows[numbers], len(self.elements)).to(self.dtype),
            "batch": batch,
            "ptr": torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
            "head": torch.zeros_like(counts),
        }

    def descriptors(self, graph: Graph) -> Float[Tensor, "atoms d"]:
        """Scalars that enter the linear maps of all readouts; site energies (less any ZBL) are linear in them."""
        kept: list[Tensor] = []
        hooks = []
        for readout in self.model.readouts:
            linear = readout.linear if hasattr(readout, "linear") else readout.linear_2
            scalars = o3.Irreps(str(linear.irreps_in)).count("0e")
            hooks.append(linear.register_forward_pre_hook(lambda _, args, n=scalars: kept.append(args[0][:, :n])))
        try:
            self.forward(graph)
        finally:
            for hook in hooks:
                hook.remove()
        return torch.cat([part.detach() for part in kept], dim=1)

    def config(self) -> dict[str, Any]:
        """`class_path` and `init_args` that rebuild the architecture."""
        dtype = str(self.dtype).removeprefix("torch.")
        arguments = {"foundation": None, "architecture": self.architecture, "dtype": dtype, "backend": self.backend}
        return {"class_path": "finetune.backbones.mace.MACE", "init_args": arguments}

    @classmethod
    def named(cls, name: str, trusted: bool = False) -> MACE:
        """`mace:mini`, `mace:NAME` of a foundation model, or `mace:PATH.model` (`trusted`)."""
        return cls(name or "mini", trusted=trusted)

    @classmethod
    def names(cls) -> dict[str, str]:
        """Known names and the licence of each."""
        return {"mini": "MIT", **{name: licence_of(name) for name in URLS}}

    @classmethod
    def tiny(cls) -> MACE:
        """Two narrow layers for Li, P, S with random weights."""
        return cls(None, architecture=TINY, dtype="float64")


TINY = {
    "r_max": 4.5,
    "num_bessel": 4,
    "num_polynomial_cutoff": 5,
    "max_ell": 2,
    "interaction_cls": "RealAgnosticResidualInteractionBlock",
    "interaction_cls_first": "RealAgnosticResidualInteractionBlock",
    "num_interactions": 2,
    "hidden_irreps": "4x0e + 4x1o",
    "MLP_irreps": "4x0e",
    "gate": "silu",
    "atomic_energies": [[-1.0, -4.0, -3.0]],
    "avg_num_neighbors": 20.0,
    "atomic_numbers": [3, 15, 16],
    "correlation": 2,
    "radial_MLP": [8, 8],
    "atomic_inter_scale": 1.0,
    "atomic_inter_shift": 0.0,
}


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    """Mace builds its modules in torch's default dtype; set it for a moment and put the old one back."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _build(architecture: Mapping[str, Any]) -> Any:
    """A ScaleShiftMACE with random weights from plain arguments."""
    arguments: dict[str, Any] = {"interaction_cls_first": architecture.get("interaction_cls"), **architecture}
    missing = sorted({key for key in TINY if key not in {"radial_MLP"}} - set(arguments))
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


def _plain(model: Any) -> dict[str, Any]:
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


def _foundation(name: str, trusted: bool) -> Any:
    """The upstream module behind a foundation's name or path."""
    if name in SHIPPED:
        return _shipped(SHIPPED[name])
    if name in URLS:
        path = _downloaded(name)
    elif os.path.isfile(name):
        path = name
        if not trusted:
            raise InputError(
                f"{name} is a Python pickle: reading it runs whatever code its author put in. "
                "If you trust where it comes from, say so: trusted=True, --trusted, or trusted: true in the config"
            )
    elif name.endswith(".model") or os.sep in name:
        raise InputError(f"there is no file {name}; check the path")
    else:
        raise unknown("MACE foundation model", name, cls_names())
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, EOFError, RuntimeError, AttributeError, KeyError) as error:
        raise InputError(f"{path} is not a MACE .model file ({type(error).__name__}: {error})") from error
    if type(model).__name__ != "ScaleShiftMACE":
        raise InputError(f"{path} holds a {type(model).__name__}; only ScaleShiftMACE models are supported")
    return model


def _shipped(path: Path) -> Any:
    """The model of a checkpoint of this package; its reference energies become the model's atomic energies."""
    if not path.is_file():
        raise InputError(f"{path.name} is missing from the installation; install the package again")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    config, state = stored["potential"]["init_args"]["potential"], stored["state_dict"]
    model = _build(config["init_args"]["architecture"])
    prefix = "potential.model."
    model.load_state_dict({key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)})
    model.atomic_energies_fn.atomic_energies += state["references"][model.atomic_numbers]
    return model


def cls_names() -> list[str]:
    """All names that `MACE(foundation=...)` knows."""
    return [*SHIPPED, *URLS]


def _downloaded(name: str) -> str:
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


def _single_head(model: Any, head: str | None) -> Any:
    """The model with one head, the named one."""
    heads = list(getattr(model, "heads", ["Default"]))
    if head is not None and head not in heads:
        raise unknown("head", head, heads)
    if len(heads) == 1:
        return model
    if head is None:
        raise InputError(f"this MACE model has heads {', '.join(heads)}; name the one to use: head: {heads[0]}")
    return remove_pt_head(model, head)


def _cut(model: Any, numbers: list[int]) -> Any:
    """The same model with fewer elements."""
    table = [int(z) for z in model.atomic_numbers]
    missing = [z for z in numbers if z not in table]
    if missing:
        raise InputError(f"elements {missing} (atomic numbers) are not in the foundation's table {table}")
    plain = _plain(model)
    rows = [table.index(z) for z in numbers]
    energies = np.atleast_2d(np.array(plain["atomic_energies"]))[:, rows]
    small = _build({**plain, "atomic_numbers": numbers, "atomic_energies": energies.tolist()})
    lmax = max(l for _, (l, _) in o3.Irreps(plain["hidden_irreps"]))
    return load_foundations_elements(small, model, AtomicNumberTable(numbers), load_readout=True, max_L=lmax)


def _accelerate(model: Any, backend: str) -> Any:
    """The model on the kernels of cuEquivariance or OpenEquivariance, by mace's own converters."""
    package = BACKENDS[backend]
    if package is None:
        return model
    if importlib.util.find_spec(package) is None:
        raise InputError(f"backend: {backend} needs {package}; pip install 'finetune-interface[{backend}]'")
    from mace.cli import convert_e3nn_cueq, convert_e3nn_oeq

    converter = convert_e3nn_cueq if backend == "cueq" else convert_e3nn_oeq
    return converter.run(model, device="cuda" if torch.cuda.is_available() else "cpu")
