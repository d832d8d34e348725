"""`finetune models`: what can be named, and under which licence."""

from __future__ import annotations

import jsonargparse
from rich.console import Console
from rich.table import Table

from finetune import models


def run(arguments: list[str]) -> None:
    """Print the known model names."""
    jsonargparse.auto_cli(show, args=arguments[1:], prog="finetune models", as_positional=True)


def show() -> None:
    """Known model names with their licences."""
    table = Table("name", "licence of the weights", box=None)
    for family in models.backbones():
        for name, licence in models.names(family).items():
            table.add_row(f"{family}:{name}", licence)
    Console().print(table)
