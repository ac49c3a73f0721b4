"""The small language of options such as `--loss ce+dice` and `--schedule warmup:5+step:20:0.5`."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import NamedTuple

from geoseg.errors import ModelError


class Part(NamedTuple):
    """One part of such an option.

    Attributes:
        name: before the first colon.
        values: the numbers after the colons.
    """

    name: str
    values: tuple[float, ...]


def parse_parts(text: str, option: str, known: Mapping[str, int]) -> list[Part]:
    """Read parts joined by `+`, each a name and its numbers joined by `:`.

    Args:
        text: as given.
        option: name of the option, for the message.
        known: the most numbers that each name takes.

    Raises:
        ModelError: an unknown name, too many numbers, or what is no number.
    """
    parts = []
    for word in text.split("+"):
        name, *numbers = word.strip().split(":")
        if name not in known:
            near = get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
            raise ModelError(f"--{option} {text}: unknown is '{name}'; {hint}")
        try:
            values = tuple(float(number) for number in numbers)
        except ValueError:
            raise ModelError(f"--{option} {text}: '{word}' needs numbers after its colons") from None
        if len(values) > known[name] or not all(0 <= value < float("inf") for value in values):
            count = {0: "no numbers", 1: "1 number of 0 or more"}.get(
                known[name], f"{known[name]} numbers of 0 or more"
            )
            raise ModelError(f"--{option} {text}: {name} takes {count}, found is '{word}'")
        parts.append(Part(name, values))
    return parts
