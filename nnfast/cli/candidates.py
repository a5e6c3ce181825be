"""The candidates of a search: options with several values, or with ranges to draw from.

Commas separate values; one before OPTION=VALUE belongs to the value before it. A colon stands between the layers of one
network: 128:64. LOW..HIGH anywhere in a value is a number to draw: a whole one between whole ends,
on a logarithmic scale where LOW is above 0.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from .options import ROWS, SIZES, Option

if TYPE_CHECKING:
    import numpy as np

_SIZES_OF_EACH = SIZES._replace(
    expected="the sizes of each network, such as 64,128:64,none (a colon between the layers of one network)"
)
_COMMA = re.compile(r",(?![^,:=]*=)")
_NUMBER = r"(?:\d+(?:\.\d+)?|\.\d+)(?:[eE][+-]?\d+)?"
_RANGE = re.compile(rf"({_NUMBER})\.\.({_NUMBER})")


class Values(NamedTuple):
    """What an option of a search may be, each as a text."""

    option: Option
    texts: tuple[str, ...]

    @property
    def range(self) -> str | None:
        """The first range, or None."""
        return next((found[0] for text in self.texts if (found := _RANGE.search(text))), None)

    @property
    def is_single(self) -> bool:
        return len(self.texts) == 1 and self.range is None

    @property
    def sample(self) -> Any:
        """One of the values."""
        return self.read(_RANGE.sub(lambda found: found[1], self.texts[0]))

    def read(self, text: str) -> Any:
        return self.option.read(text)

    @property
    def repetition(self) -> str | None:
        """What to tell the user if a value stands there twice: a comma between layers is taken for one of networks."""
        text = next((text for place, text in enumerate(self.texts) if text in self.texts[:place]), None)
        if text is None:
            return None
        is_network = self.option.kind == _SIZES_OF_EACH
        twice = f"{self.option.flag} {','.join(self.texts)} names {'the same network' if is_network else text} twice"
        return f"{twice}; for two layers write {text}:{text}" if is_network and text.isdigit() else twice


def several(option: Option) -> Callable[[str], Values]:
    """Reads the option's values, as an argparse type."""
    if option.kind == SIZES:
        option = replace(option, kind=_SIZES_OF_EACH)

    def read(text: str) -> Values:
        values = Values(option, tuple(part.strip() for part in _COMMA.split(text)))
        for part in values.texts:
            if not part:
                raise argparse.ArgumentTypeError(f"must have a value on both sides of a comma, got {text!r}")
            for low, high in _RANGE.findall(part):
                if not float(low) < float(high):
                    raise argparse.ArgumentTypeError(f"must have the lower end of a range first, got {low}..{high}")
            for end in (1, 2):
                values.read(_RANGE.sub(lambda found, end=end: found[end], part))  # type: ignore[misc]
        return values

    return read


def candidates(varied: Sequence[Values], trials: int | None, seed: int) -> list[dict[str, Any]]:
    """The settings of every candidate: all combinations, or `trials` drawn by the seed. Equal ones are one.

    A trial's draws depend on the seed and its number alone, so that more trials begin with the same ones. Raises
    ValueError for a range without trials.
    """
    from ..support.checks import check_integer
    from ..support.random import Purpose, generator

    if trials is None:
        for values in varied:
            if values.range:
                raise ValueError(
                    f"{values.option.flag} has the range {values.range}: say with --trials how many candidates to draw"
                )
        chosen = list(itertools.product(*(values.texts for values in varied)))
    else:
        chosen = []
        for trial in range(check_integer(trials, "--trials")):
            draws = generator(seed, Purpose.CANDIDATE, trial)
            chosen.append(tuple(_drawn(values.texts[draws.integers(len(values.texts))], draws) for values in varied))
    made = [
        {values.option.name: values.read(text) for values, text in zip(varied, texts, strict=True)} for texts in chosen
    ]
    return list({key_of(settings): settings for settings in made}.values())


def key_of(settings: Mapping[str, Any]) -> str:
    """A text that tells candidates apart."""
    return json.dumps(settings, sort_keys=True)


def shown_value(name: str, value: Any) -> str:
    """A value as a search takes it."""
    if ROWS[name].kind == SIZES:
        return ":".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def in_words(settings: Mapping[str, Any]) -> str:
    """ "learning_rate 0.003, hidden 128:64"."""
    return ", ".join(f"{name} {shown_value(name, value)}" for name, value in settings.items()) or "the only candidate"


def _drawn(text: str, draws: np.random.Generator) -> str:
    """The text with a number in place of each range."""
    return _RANGE.sub(lambda found: _between(found[1], found[2], draws), text)


def _between(low: str, high: str, draws: np.random.Generator) -> str:
    if low.isdigit() and high.isdigit():
        first, last = int(low), int(high)
        if not first:
            return str(draws.integers(first, last + 1))
        return str(min(int(math.exp(draws.uniform(math.log(first), math.log(last + 1)))), last))
    least, most = float(low), float(high)
    value = math.exp(draws.uniform(math.log(least), math.log(most))) if least else draws.uniform(least, most)
    return repr(min(max(float(f"{value:.4g}"), least), most))  # four digits are enough to read and to repeat
