"""Files of tensors with a SHA-256 of their content, verified on reading.

The checksum is an entry of the file itself (`checksum`). It covers every tensor bit by bit, with its type and shape,
and every plain value. Beside it the CRC-32 of each member of the archive is verified before anything is unpickled, in
files of earlier versions too, which have no entry.
"""

from __future__ import annotations

import hashlib
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from finetune.files import whole

CHECKSUM = "checksum"  # entry of a file: SHA-256 of all others
PLAIN = (str, int, float, complex, bool, bytes, type(None), torch.dtype, torch.device)
UNREADABLE = (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, ValueError, LookupError)


class DamagedError(ValueError):
    """The content of a file is not what was written; the text is the reason."""


def checksum(content: Any) -> str:
    """SHA-256 of nested plain values, arrays and tensors, whatever device they are on."""
    digest = hashlib.sha256()
    _update(digest, content)
    return digest.hexdigest()


def _update(digest: Any, content: Any) -> None:
    if isinstance(content, Tensor):
        data = content.detach().cpu().contiguous()
        digest.update(f"tensor {data.dtype} {tuple(data.shape)};".encode())
        digest.update(data.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(content, np.ndarray):
        digest.update(f"array {content.dtype.str} {content.shape};".encode())
        digest.update(np.ascontiguousarray(content).tobytes())
    elif isinstance(content, Mapping):
        digest.update(f"mapping {len(content)};".encode())
        for key, value in content.items():
            _update(digest, key)
            _update(digest, value)
    elif isinstance(content, list | tuple):
        digest.update(f"{'list' if isinstance(content, list) else 'tuple'} {len(content)};".encode())
        for value in content:
            _update(digest, value)
    elif isinstance(content, PLAIN):
        digest.update(f"{type(content).__name__} {content!r};".encode())
    else:  # of a callback of the user's own; its name at least
        digest.update(f"{type(content).__module__}.{type(content).__qualname__};".encode())


def write_tensors(content: Mapping[str, Any], path: Path) -> None:
    """Write tensors and plain values with their checksum by `torch.save`, whole or not at all.

    Raises:
        InputError: the disk is full or not writable.
    """
    with whole(path) as partial, partial.open("wb") as stream:
        try:
            torch.save({**content, CHECKSUM: checksum(content)}, stream)
        except RuntimeError as error:  # torch's word for a full disk
            raise OSError(str(error)) from error


def read_tensors(path: Path) -> Any:
    """The content of a file of tensors, on the CPU; nothing in it is executed.

    Raises:
        DamagedError: the content differs from its checksums.
        UnpicklingError: it holds more than plain values and tensors.
        OSError, RuntimeError, EOFError, ValueError, LookupError: not a file of tensors.
    """
    if zipfile.is_zipfile(path):
        check_archive(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the pickle protocol; what matters is refused by the caller
        content = torch.load(path, map_location="cpu", weights_only=True)
    if isinstance(content, dict) and CHECKSUM in content:
        verify({key: value for key, value in content.items() if key != CHECKSUM}, content[CHECKSUM])
    return content


def verify(content: Any, expected: Any) -> None:
    """Raise `DamagedError` where the checksum of a content is another one."""
    if checksum(content) != expected:
        raise DamagedError("its checksum differs from its content")


def check_archive(path: Path) -> None:
    """Verify the CRC-32 of all members of a zip archive.

    Raises:
        DamagedError: a member differs, or the archive cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            packed = [member.filename for member in archive.infolist() if member.compress_type != zipfile.ZIP_STORED]
            bad = None if packed else archive.testzip()
    except UNREADABLE as error:
        raise DamagedError(f"its archive cannot be read: {str(error) or type(error).__name__}") from error
    if packed:
        raise DamagedError(f"its member {packed[0]} is compressed, which no version of this package writes")
    if bad is not None:
        raise DamagedError(f"the checksum of its member {bad} differs")
