"""Class paths in options and configurations: those that a parser may import, and the message about others."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from finetune import permissions

DENIED = re.compile(r"Importing '([\w.]+)' is not allowed")
WITHOUT_TYPE = ("finetune.cli", "lightning.pytorch.callbacks.LambdaCallback")  # they call what they are given
LAMBDA = "lightning.pytorch.callbacks.lambda_function"


@contextlib.contextmanager
def limited_parsing() -> Iterator[None]:
    """Limit the imports of all parsers to the permissions of the command until the block ends."""
    from jsonargparse import set_parsing_settings
    from jsonargparse._common import parsing_settings  # there is no public way to put settings back

    before = dict(parsing_settings)
    set_parsing_settings(
        import_path_denylist=["*", *WITHOUT_TYPE, LAMBDA],
        import_path_allowlist=permissions.names(),
        instantiate_subclass_spec_in_any=False,  # settings of calculators stay plain until they are built
    )
    try:
        yield
    finally:
        parsing_settings.update(before)


def explained(message: str) -> str:
    """The message of a parser; about a class that is not allowed, one line with the remedy."""
    found = DENIED.search(message)
    return permissions.refusal(found[1]) if found else message
