"""Names from files and options, made fit for a terminal, a table, a plot, a web page or Markdown.

A name may hold anything: `bulk [/a]`, `$x$`, `<b>`, an escape sequence. It is shown as it is written, everywhere.
"""

from __future__ import annotations

import html
import re

from rich.text import Text

# C0 and C1 controls, and characters that change the direction of text or separate lines
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
KEPT = "\n\t"  # in texts of several lines
MARKS = re.compile(r"[\\`*|]|(?<=\])\(")  # of Markdown
TICKS = re.compile("`+")


def printable(text: object, keep: str = "") -> str:
    """The text with control characters written as escapes, which a terminal does not obey.

    Args:
        text: any text.
        keep: control characters that stay as they are.
    """
    return HIDDEN.sub(lambda found: found[0] if found[0] in keep else ascii(found[0])[1:-1], str(text))


def message(text: object) -> str:
    """A message of one or several lines for a terminal."""
    return printable(text, KEPT)


def cell(name: object, style: str = "") -> Text:
    """A name in a table of rich, without markup."""
    return Text(printable(name, "\n"), style)


def in_plot(name: object) -> str:
    """A name in a plot of Matplotlib: no mathematics, and not left out of a legend."""
    text = printable(name).replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def in_page(name: object) -> str:
    """A name in a plot of Plotly, which takes tags for markup."""
    return html.escape(printable(name), quote=False)


def in_markdown(text: object) -> str:
    """A text in one line of Markdown, without markup and HTML."""
    return html.escape(MARKS.sub(r"\\\g<0>", printable(text)), quote=False)


def fenced(text: str) -> str:
    """A block of preformatted text in Markdown, which no content can end."""
    fence = "`" * max([3, *(len(found) + 1 for found in TICKS.findall(text))])
    return f"{fence}\n{text}{fence}\n"
