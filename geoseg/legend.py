"""The classes of a map: values, names, colours and roles, in order."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from geoseg.display import Displayed
from geoseg.errors import LegendError, without_controls
from geoseg.files import parse_json

Role = Literal["background", "boundary"]

IGNORE = 255
"""Class index of pixels that are neither learned from nor counted."""

MAX_VALUE = 65535

CLASS_NAME = "class_name"
"""The column of polygon files written by geoseg that tells the class."""
LEGEND_TAG = "GEOSEG_LEGEND"
"""GeoTIFF tag of a class raster that holds `Legend.to_list()` as JSON."""
MODEL_TAG = "GEOSEG_MODEL_SHA256"
"""GeoTIFF tag of a map's rasters that holds the SHA-256 of the weights of the model that made it."""
PROVENANCE_TAG = "GEOSEG_PROVENANCE"
"""GeoTIFF tag of a map's rasters that holds what they were made of and with, as JSON."""

_MOST_SHOWN = 6
"""Values of a group that are told one by one."""

_BY_NAME = ""
"""The role of a class of which nothing is said but its name."""

# Paul Tol's "muted" and "light" schemes (personal.sron.nl/~pault): told apart by colour-blind readers; gold first, since
# the first class that is not background is mostly the cultivated one.
_COLOURS = (
    "#e5b52a", "#117733", "#88ccee", "#cc6677", "#332288", "#aa4499", "#44aa99", "#999933", "#882255", "#ee8866",
    "#bbcc33", "#77aadd", "#ffaabb", "#99ddff", "#aaaa00", "#eedd88",
)  # fmt: skip
_BACKGROUND_COLOUR = "#d9d9d9"
_BOUNDARY_COLOUR = "#4d4d4d"


@dataclass(frozen=True)
class LegendClass:
    """One class.

    Attributes:
        value: what stands in the user's rasters, 0 to 65535.
        name: what people call it.
        colour: "#rrggbb".
        role: `background` or `boundary`, of which no polygons are made unless asked for, or none.
        also: further values that mean the class in labels, where the user has named several alike.
    """

    value: int
    name: str
    colour: str
    role: Role | None = None
    also: tuple[int, ...] = ()


@dataclass(frozen=True, repr=False)
class Legend(Displayed):
    """The classes of a map, in the order of their class indices 0..n-1.

    Raises:
        LegendError: no class, more than 254, values or names that repeat, a value out of range, an unusable colour or role.
    """

    classes: tuple[LegendClass, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.classes) < IGNORE:
            raise LegendError(f"classes: {len(self.classes)} found, 1 to {IGNORE - 1} are possible; group some of them")
        for what, entries in (("value", self.label_values), ("name", self.names)):
            repeated = sorted(str(entry) for entry, count in Counter(entries).items() if count > 1)
            if repeated:
                raise LegendError(f"classes: {what} {', '.join(repeated)} stands twice; give each class its own")
        for entry in self.classes:
            for value in (entry.value, *entry.also):
                if not 0 <= value <= MAX_VALUE:
                    raise LegendError(f"class '{entry.name}': value {value} found, 0 to {MAX_VALUE} are possible")
            if without_controls(entry.name) != entry.name:  # XML could not hold it, in which styles are written
                raise LegendError(f"class {entry.value}: name {entry.name!r} found, with letters that cannot be shown")
            if not re.fullmatch(r"#[0-9a-f]{6}", entry.colour):
                raise LegendError(f"class '{entry.name}': colour '{entry.colour}' found, '#rrggbb' is needed")
            if entry.role is not None and entry.role not in get_args(Role):
                raise LegendError(
                    f"class '{entry.name}': role '{entry.role}' found, known: {', '.join(get_args(Role))}"
                )

    def __len__(self) -> int:
        return len(self.classes)

    def __iter__(self) -> Iterator[LegendClass]:
        return iter(self.classes)

    def __str__(self) -> str:
        return ", ".join(f"{'+'.join(map(str, _shortened(entry)))}={entry.name}" for entry in self.classes)

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(entry.value for entry in self.classes)

    @property
    def label_values(self) -> tuple[int, ...]:
        """All values that mean a class in labels: `values`, and those that the user has grouped with them."""
        return tuple(value for entry in self.classes for value in (entry.value, *entry.also))

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(entry.name for entry in self.classes)

    @property
    def background(self) -> int | None:
        """Class index of the background: the class of that role, else value 0 where 0 is a class, else none."""
        for index, entry in enumerate(self.classes):
            if entry.role == "background":
                return index
        return self.values.index(0) if 0 in self.values else None

    @property
    def boundary(self) -> int | None:
        """Class index of the boundary between fields, which stands for no ground of its own; None where there is none."""
        return next((index for index, entry in enumerate(self.classes) if entry.role == "boundary"), None)

    @property
    def ground(self) -> tuple[int, ...]:
        """Class indices of all but the background and the boundary: what there is to be found."""
        return tuple(index for index in range(len(self)) if index not in (self.background, self.boundary))

    @property
    def dtype(self) -> str:
        """The smallest dtype that holds every value and a nodata value: `uint8` or `uint16`."""
        return "uint8" if max(self.values) <= 255 else "uint16"

    @property
    def nodata(self) -> int:
        """The largest value of the dtype that is no class (255 or 65535 as a rule)."""
        largest = 255 if self.dtype == "uint8" else MAX_VALUE
        return next(value for value in range(largest, -1, -1) if value not in self.values)

    def index(self, key: int | str) -> int:
        """Class index of a class named by its name or its value.

        Raises:
            LegendError: no class is called so.
        """
        text = str(key).strip()
        if text in self.names:
            return self.names.index(text)
        for index, entry in enumerate(self.classes):
            if text in map(str, (entry.value, *entry.also)):
                return index
        raise LegendError(f"class '{text}' is not in the legend ({self}); name a class by its name or value")

    def with_background(self, key: int | str) -> Legend:
        """The same legend with `key` (name or value) as its only background."""
        chosen = self.index(key)
        kept = (replace(entry, role=None) if entry.role == "background" else entry for entry in self.classes)
        return Legend(tuple(replace(e, role="background") if i == chosen else e for i, e in enumerate(kept)))

    def with_boundary(self) -> Legend:
        """The same legend and, after its classes, one called `boundary`, with the next value that is free.

        Raises:
            LegendError: there is a boundary, or no room for one.
        """
        if self.boundary is not None or "boundary" in self.names:
            raise LegendError(f"classes: a boundary is among them ({self}); leave out --boundary, or this class")
        value = max(self.label_values) + 1
        if value > MAX_VALUE:
            value = next(free for free in range(1, MAX_VALUE) if free not in self.label_values)
        return Legend((*self.classes, LegendClass(value, "boundary", _BOUNDARY_COLOUR, "boundary")))

    @cached_property
    def _index_of_value(self) -> np.ndarray:
        table = np.full(MAX_VALUE + 1, IGNORE, np.uint8)
        table[list(self.values)] = np.arange(len(self), dtype=np.uint8)
        return table

    @cached_property
    def _value_of_index(self) -> np.ndarray:
        table = np.full(IGNORE + 1, self.nodata, self.dtype)
        table[: len(self)] = self.values
        return table

    def to_indices(self, values: np.ndarray) -> np.ndarray:
        """Class values (any integer dtype, within 0..65535) to class indices (uint8); other values become 255."""
        return self._index_of_value[values]

    def group(self, values: np.ndarray) -> np.ndarray:
        """Values of labels (any shape, int32), of which those of a group become that of its class."""
        grouped = values.copy()
        for entry in self.classes:
            if entry.also:
                grouped[np.isin(values, entry.also)] = entry.value
        return grouped

    def to_values(self, indices: np.ndarray) -> np.ndarray:
        """Class indices (uint8) to class values (`dtype`); 255 becomes `nodata`."""
        return self._value_of_index[indices]

    def to_list(self) -> list[dict[str, Any]]:
        """As it stands in JSON files."""
        return [{"value": e.value, "name": e.name, "colour": e.colour, "role": e.role} for e in self.classes]

    @classmethod
    def from_list(cls, entries: Iterable[dict[str, Any]]) -> Legend:
        """From JSON; colours and names that are missing are made up.

        Raises:
            LegendError: an entry without a usable value.
        """
        return _complete(_read_entries(entries))


class _Partly(NamedTuple):
    """What is said of a class."""

    value: int
    name: str | None = None
    colour: str | None = None
    role: str | None = _BY_NAME
    also: tuple[int, ...] = ()


def _read_entries(entries: Iterable[dict[str, Any]]) -> list[_Partly]:
    partly = []
    for entry in entries:
        try:
            value = int(str(entry["value"]))  # as a text, since int(1.5) is 1
        except (KeyError, TypeError, ValueError):
            raise LegendError(f"class {entry}: a whole number called 'value' is needed") from None
        name, colour = (
            str(entry.get("name") or "").strip(),
            str(entry.get("colour") or entry.get("color") or "").strip(),
        )
        # A role of null was taken from the class; where nothing or an empty cell stands, the name tells it.
        partly.append(_Partly(value, name, colour, entry.get("role", _BY_NAME)))
    return partly


def make_legend(values: Sequence[int], names: Sequence[str | None] = (), colours: Sequence[str | None] = ()) -> Legend:
    """A legend from values; nameless classes are called `class_<value>`."""
    names = list(names) or [None] * len(values)
    colours = list(colours) or [None] * len(values)
    return _complete([_Partly(*entry) for entry in zip(values, names, colours, strict=True)])


def parse_legend(spec: str | Path) -> Legend:
    """Read classes from a text such as `0=background,1=cultivated:#e5b52a`, or from a CSV or JSON file.

    A CSV has the columns `value`, `name` and, if you like, `colour` and `role`; a JSON file is a list of such objects. Values
    of one name are one class, which has the first of them, as in `0=background,1=cultivated,5=cultivated`.

    Raises:
        LegendError: the text or file cannot be understood.
    """
    path = Path(spec)
    if path.suffix.lower() in {".csv", ".json"}:
        return _read_legend_file(path)
    partly: list[_Partly] = []
    for part in filter(None, (part.strip() for part in str(spec).split(","))):
        match = re.fullmatch(r"(\d+)(?:\s*=\s*([^:]+?))?(?:\s*:\s*(#[0-9a-fA-F]{6}))?", part)
        if not match:
            raise LegendError(
                f"--classes '{part}' cannot be read; write VALUE=NAME or VALUE=NAME:#rrggbb, split by commas"
            )
        partly.append(_Partly(int(match[1]), match[2], match[3]))
    return _complete(_group(partly))


def _read_legend_file(path: Path) -> Legend:
    try:
        text = path.read_text(encoding="utf-8-sig")
        entries = parse_json(text) if path.suffix.lower() == ".json" else list(csv.DictReader(text.splitlines()))
    except (OSError, ValueError) as error:
        raise LegendError(
            f"{path}: no legend could be read ({error}); a list of value, name, colour is needed"
        ) from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise LegendError(f"{path}: a list of objects with value, name, colour is needed")
    try:
        return _complete(_group(_read_entries(entries)))
    except LegendError as error:
        raise LegendError(f"{path}: {error}") from None


def _shortened(entry: LegendClass) -> tuple[int | str, ...]:
    return (entry.value, *entry.also) if len(entry.also) < _MOST_SHOWN else (entry.value, f"{len(entry.also)} more")


def _group(partly: Sequence[_Partly]) -> list[_Partly]:
    """Values that the user has given one name, as one class: it has the first of them."""
    groups: dict[object, list[_Partly]] = {}
    for number, entry in enumerate(partly):
        groups.setdefault(entry.name or number, []).append(entry)
    return [
        first._replace(
            colour=next((entry.colour for entry in (first, *others) if entry.colour), None),
            also=tuple(entry.value for entry in others),
        )
        for first, *others in groups.values()
    ]


def _complete(partly: Sequence[_Partly]) -> Legend:
    """Fill in names, colours and the role that a name tells."""
    classes: list[LegendClass] = []
    colours = iter(_COLOURS * (len(partly) // len(_COLOURS) + 1))
    for value, name, colour, role, also in partly:
        name = name or f"class_{value}"
        if role == _BY_NAME:
            role = name.lower() if name.lower() in get_args(Role) else None
        fallback = _BACKGROUND_COLOUR if role == "background" or value == 0 else next(colours)
        fallback = _BOUNDARY_COLOUR if role == "boundary" else fallback
        classes.append(LegendClass(value, name, (colour or fallback).lower(), role, also))  # type: ignore[arg-type]
    return Legend(tuple(classes))
