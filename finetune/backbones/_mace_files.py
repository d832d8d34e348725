"""Published files of the MACE foundation models: their SHA-256, and reading `.model` files without running code.

A `.model` file is a pickle of a whole module. Of a file that holds MACE's own classes only, attributes and tensors are
read, nothing is executed, and the module is built anew from them. Other files are unpickled, which runs code: those of
a known SHA-256, and those that the user trusts.

The SHA-256 sums are those of ACEsuit's own tests (medium-mpa-0, small, off-small); for the others, two or more public
projects that pin these files agree.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

from finetune import permissions
from finetune.errors import InputError

SHA256 = {
    "small": "2ddb079cee0e131eaaf6912ba581b394551ead283e95c99cfe78c605d10b5736",
    "medium": "01bfe22100139f424713cf921144e5509cbe353d67aa9fa1be9c6e1e0ed35845",
    "large": "f80e992b65ab8f88fdf26964511357c022e92704e4d9bcd086652635a8495b32",
    "small-0b": "7e3a0abcaf41e03a80e69f778e1b11b29de1cca704783dc25917a736392f8cf0",
    "medium-0b": "ab8baff639a8f295f3eccad3d3ccf574efb6fb63220bd52cd88664211569e521",
    "small-0b2": "d5773bf9440e96d6eb8c598f84bd0e6369fcfa432f626a87f890e07da3c651c9",
    "medium-0b2": "a90be07c8aa6623c390fcc4653d3e319c4a356f8b4a53d323f96b2012d375caf",
    "large-0b2": "348390e758e1c90011c7675e864850f8e9c5b3e7c217f79a2b4bad1baaa657ad",
    "medium-0b3": "2f2be696351ac9e94fbe01cdfb6f017679acdbd2db7645209ef55fec9826b012",
    "medium-mpa-0": "75428afe3a1d7d8062e19bcaabd5c433623cabf308242ec9fb493e38604fb638",
    "small-omat-0": "0abfde07862cf1e93b8b4d03cb702f29ce9c344ff2fc4de2ec0d7166d6c113a5",
    "medium-omat-0": "d4b14be9afa294eebdbe31a0280b26a0fa29715771e978cbfd3ca24e0d90307a",
    "mace-matpes-pbe-0": "e618ad582b84239905b9c3b77ce6e9ce111b0ecd1533223a1a6aac7a696b8aa0",
    "mace-matpes-r2scan-0": "8f147ecffa1d06a696e5648b13b81abda9c96fda9d0fb3faba3cd3fb27d9bba9",
    "mh-0": "d62ff8f293664e6556cfa49364b28ee72a70cf1e6150f3c111a578397fed609d",
    "mh-1": "a522eb7f59c7879963d41586528f4980baf33e086c94aa92e3eafdeccad3be47",
    "off-small": "165cce4cfec5a34b9c64d4ebf95de15d71106bb584b7291c8470f0749977c46f",
    "off-medium": "4842c52ad210d6e1f84d6cf1ffa70fae25a7e0d755ed55cf223f43913f587db7",
    "off-large": "a29e397dbf3e7a24ac50a9b0dfc919bd5a62efa346f5895a6237b0950c1d76f4",
}


KEPT = ("mace.modules.", "torch.nn.modules.", "e3nn.math._normalize_activation.normalize2mom")  # modules as they are
PLAIN = (
    *("e3nn.o3._irreps.Irrep", "e3nn.o3._irreps.Irreps", "e3nn.o3._irreps._MulIr", "e3nn.o3._linear.Instruction"),
    *("e3nn.o3._tensor_product._instruction.Instruction", "torch.nn.functional.silu", "torch.nn.functional.tanh"),
)
GRAPH, TRACER = "torch.fx.graph_module.reduce_graph_module", "torch.fx._symbolic_trace.Tracer"  # these hold source code
MADE = "._compiled_main"  # constants of e3nn's compiled functions, which a module that is built has anew
UNREADABLE = (pickle.UnpicklingError, EOFError, RuntimeError, AttributeError, LookupError, TypeError, ValueError)


class Shell(nn.Module):
    """A module of which only attributes, tensors and submodules are kept, not its compiled functions."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take over attributes."""
        self.__dict__.update({key: value for key, value in state.items() if key != "__codegen__"})


def read_model(name: str, path: Path, trusted: bool, rebuilt: Callable[[Any], Any]) -> Any:
    """The module in a `.model` file.

    Args:
        name: of the foundation model that the file should be; other names have no known SHA-256.
        path: the file.
        trusted: unpickle it if need be, without a known SHA-256.
        rebuilt: builds a module anew from the attributes and tensors of another.

    Raises:
        InputError: not the published file, no `.model` file, or one that cannot be read without running code and is not
            trusted.
    """
    content = path.read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), SHA256.get(name)
    if expected is not None and found != expected:
        raise InputError(
            f"{path}: got SHA-256 {found}, expected {expected} of mace:{name}. The file is damaged or not that "
            "one: remove it, to download it again"
        )
    try:
        return rebuilt(_attributes(content))
    except UNREADABLE as error:
        if expected is None and not permissions.may_unpickle(trusted):
            raise InputError(
                f"{path} is a Python pickle: reading it runs whatever code its author put in. If you trust where it "
                f"comes from (SHA-256 {found}), add --trusted on the command line, or trusted=True in Python"
            ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(io.BytesIO(content), map_location="cpu", weights_only=False)
    except UNREADABLE as error:
        raise InputError(f"{path} is not a MACE .model file ({type(error).__name__}: {error})") from error


def _attributes(content: bytes) -> Any:
    """The modules of a pickle as far as attributes and tensors go; nothing in it is executed.

    Raises:
        UnpicklingError: it holds other classes than those of MACE.
    """
    found: list[Callable[..., Any] | tuple[Callable[..., Any], str]] = [
        (_stand_in(name), name) for name in get_unsafe_globals_in_checkpoint(io.BytesIO(content))
    ]
    with warnings.catch_warnings(), safe_globals(found):
        warnings.simplefilter("ignore")
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)


def _stand_in(name: str) -> Any:
    """The object that stands for a name in a pickle.

    Raises:
        UnpicklingError: it is none of MACE's.
    """
    if name == GRAPH:
        return _no_graph
    module, _, last = name.rpartition(".")
    known = getattr(sys.modules.get(module), last, None)  # nothing is imported
    if name in PLAIN and known is not None:
        return known
    is_module = isinstance(known, type) and issubclass(known, nn.Module)
    if is_module and name.startswith(KEPT):
        return known
    if (is_module and name.startswith("e3nn.")) or name == TRACER:
        return type(last, (Shell,), {})
    raise pickle.UnpicklingError(f"it names {name}")


def _no_graph(*given: Any) -> nn.Module:
    """An empty module in place of a function that is stored as source code."""
    return nn.Module()


def take_over(module: Any, stored: Any) -> Any:
    """The module with the tensors of a stored one.

    Raises:
        RuntimeError: tensors are missing, or they have no place in the module.
    """
    found = module.load_state_dict(stored.state_dict(), strict=False)
    missing = [key for key in found.missing_keys if MADE not in key]
    if missing or found.unexpected_keys:
        raise RuntimeError(f"tensors do not fit: {', '.join([*missing, *found.unexpected_keys][:3])}")
    return module
