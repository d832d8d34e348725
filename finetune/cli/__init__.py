"""The command line: `finetune COMMAND ...`."""

from finetune.cli.main import main

__all__ = ["main"]
