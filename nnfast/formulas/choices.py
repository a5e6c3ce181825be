"""A choice from a table in one text, NAME or NAME:OPTION=VALUE,..., as Python, the command line and files write it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def parse_choice(text: str, what: str, given: Mapping[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
    """The name and the options of "sgd:momentum=0.9,nesterov=true".

    given: options from elsewhere, which may stand beside a name alone. Raises ValueError.
    """
    name, colon, rest = text.partition(":")
    if colon and given:
        raise ValueError(f"{what} {text!r} has its options in the text: leave out {', '.join(given)}")
    options: dict[str, Any] = dict(given or {})
    for item in rest.split(",") if colon else ():
        key, equals, value = (part.strip() for part in item.partition("="))
        words = {"true": True, "false": False}
        try:
            if not (key and equals) or key in options:
                raise ValueError
            options[key] = words[value] if value in words else _read_number(value)
        except ValueError:
            raise ValueError(
                f"{what} must be NAME or NAME:OPTION=VALUE,... with each option once and numbers, true or false for "
                f"values; got {text!r}"
            ) from None
    return name.strip(), options


def check_options(chosen: str, options: Iterable[str], known: Iterable[str]) -> None:
    """Raise ValueError for an option that what was chosen does not have."""
    for name in options:
        if name not in known:
            raise ValueError(f"{chosen} has no option {name!r}; it has: {', '.join(known) or 'none'}")


def _read_number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def format_choice(name: str, options: Mapping[str, Any]) -> str:
    """The text that parse_choice reads back."""
    written = {key: str(value).lower() if isinstance(value, bool) else repr(value) for key, value in options.items()}
    pairs = [f"{key}={value}" for key, value in written.items()]
    return f"{name}:{','.join(pairs)}" if pairs else name
