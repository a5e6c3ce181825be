"""The estimators' docstrings: scikit-learn's sections of the installed version, with nnfast's own entries in them."""

from __future__ import annotations

import inspect
import re
from typing import Any, TypeVar

from sklearn import neural_network

HEADING = re.compile(r"^(\w[\w ]*)\n-{3,}\n", re.MULTILINE)
ENTRY = re.compile(r"^(?=\S)", re.MULTILINE)
# "versionadded" and the like tell scikit-learn's versions
VERSION = re.compile(r"\n*^( *)\.\. version\w+::.*(?:\n\1 +.*)*", re.MULTILINE)

Estimator = TypeVar("Estimator", bound=type[Any])


def documented(kind: Estimator) -> Estimator:
    """A class decorator: adds to the docstring what the docstrings of the bases say of parameters and attributes.

    An entry of the class goes before one of its mixin, and that before scikit-learn's. Parameters come in the order of
    the signature.
    """
    if not kind.__doc__:  # python -OO
        return kind
    theirs = getattr(neural_network, kind.__name__)
    sources = [_sections(source.__doc__) for source in (theirs, kind.__mro__[1], kind)]
    sections = {"": "", "Parameters": "", "Attributes": "", **sources[-1]}
    for heading in ("Parameters", "Attributes"):
        merged: dict[str, str] = {}
        for source in sources:
            merged |= _entries(source.get(heading, ""))
        names = inspect.signature(kind).parameters if heading == "Parameters" else merged
        sections[heading] = "\n\n".join(merged[name] for name in names)
    summary = sections.pop("")
    parts = [f"{heading}\n{'-' * len(heading)}\n{text.strip()}" for heading, text in sections.items()]
    kind.__doc__ = "\n\n".join([summary.strip(), *parts]) + "\n"
    return kind


def _sections(docstring: str | None) -> dict[str, str]:
    """Text by heading; what stands before the first one by ""."""
    before, *rest = HEADING.split(inspect.cleandoc(docstring or ""))
    return {"": before, **dict(zip(rest[::2], rest[1::2], strict=True))}


def _entries(section: str) -> dict[str, str]:
    """The entries of a section, as in "name : type" and the indented lines below, by their names."""
    entries = [VERSION.sub("", entry).strip() for entry in ENTRY.split(section)]
    return {entry.partition(" : ")[0]: entry for entry in entries if entry}
