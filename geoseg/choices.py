"""The words that options take: one list each for the functions' types and for the command line."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, get_args

from geoseg.errors import Faults, InputError

Blend = Literal["auto", "crop", "hann"]
Connectivity = Literal[4, 8]
Engine = Literal["torch", "openvino"]
ExportFormat = Literal["onnx", "openvino"]
Format = Literal["gpkg", "fgb", "geojson", "parquet"]
Logger = Literal["csv", "tensorboard"]
Other = Literal["error", "ignore"]
Padding = Literal["reflect", "zeros"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Program = Literal["deepness"]
Sampling = Literal["uniform", "balanced"]
Scaling = Literal["dataset", "unit", "percentile", "imagenet"]
Small = Literal["merge", "drop"]
SplitBy = Literal["block", "random", "scene"]
SplitName = Literal["train", "val", "test"]
TestTimeAugmentation = Literal["none", "flips", "d4", "shifts"]
Unlabelled = Literal["background", "ignore"]


class Rule(NamedTuple):
    """What an option has to keep to.

    Attributes:
        name: of the option, as an attribute of what holds it.
        kept: whether it does.
        needed: what is said where it does not.
    """

    name: str
    kept: bool
    needed: str


def one_of(options: object, name: str, words: Any) -> Rule:
    """That an option is one of the words of a type such as `Blend`."""
    known = get_args(words)
    return Rule(name, getattr(options, name) in known, f"known are {', '.join(map(str, known))}")


def at_least(options: object, name: str, least: int) -> Rule:
    """That an option is a whole number, `least` or more, or None."""
    value = getattr(options, name)
    kept = value is None or (isinstance(value, int) and value >= least)
    return Rule(name, kept, f"{least} or more is needed")


def refuse_below(least: int, faults: Faults, **options: int | None) -> None:
    """Collect the options whose value is less than some whole number; None is no value."""
    for name, value in options.items():
        with faults.collect():
            if value is not None and value < least:
                raise InputError(f"--{name.replace('_', '-')} {value}: {least} or more is needed")


def refuse_odd(options: object, rules: Iterable[Rule], faults: Faults) -> None:
    """Collect the rules that are broken."""
    for name, kept, needed in rules:
        with faults.collect():
            if not kept:
                raise InputError(f"--{name.replace('_', '-')} {getattr(options, name)}: {needed}")
