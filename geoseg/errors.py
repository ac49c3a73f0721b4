"""Everything that geoseg raises or warns about.

    GeosegError
    ├── InputError (ValueError)       what the user gave cannot be used
    │   ├── RasterError               not a raster, damaged, wrong container, wrong grid
    │   ├── GeoreferenceError         CRS or transform missing or unusable
    │   ├── LabelError                labels that do not fit the scene or the legend
    │   ├── LegendError               classes that cannot be understood
    │   ├── SplitError                too little ground for the splits asked for
    │   ├── MismatchError             a scene unlike what the model was trained on
    │   ├── ModelError                an architecture, weights or bundle that cannot be built or read
    │   └── FormatError               one of geoseg's own files is damaged or newer than this version
    ├── MissingFileError (FileNotFoundError)
    ├── MissingPackageError (ImportError)   an extra of geoseg is not installed
    ├── OutputExistsError (FileExistsError)
    ├── LearningError                 training came to nothing, as with a loss that is not a number
    ├── OutputBusyError               another run writes into the same folder
    ├── DiskError (OSError)           what was written is not what stands on the disk
    ├── SomeScenesError               some of several scenes failed, the others are done
    └── PreflightError                several of the above, found before any work began

    GeosegWarning (UserWarning)
    ├── DataWarning                   something in the data was left out or read in a particular way
    └── MismatchWarning               the scene differs from the training data, but can be used

Every message is one line: the file, what was found, what is needed, what to do.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def without_controls(text: str, *, kept: str = "", instead: str = "") -> str:
    """A text without line breaks, and without letters that move a terminal's cursor or that UTF-8 does not know.

    Args:
        text: such as a name from a stranger's file.
        kept: those that may stay.
        instead: what stands where one was.
    """
    unwanted = {"Cc", "Cs", "Zl", "Zp"}
    return "".join(c if c in kept or unicodedata.category(c) not in unwanted else instead for c in text)


class GeosegError(Exception):
    """The root of every error that geoseg raises on purpose."""


class InputError(GeosegError, ValueError):
    """What the user gave cannot be used."""


class RasterError(InputError):
    """A file that is not a raster, is damaged, or lies on the wrong grid."""


class GeoreferenceError(InputError):
    """A CRS or transform is missing or cannot be used."""


class LabelError(InputError):
    """Labels that do not fit the scene or the legend."""


class LegendError(InputError):
    """Classes that cannot be understood."""


class SplitError(InputError):
    """Too little ground for the splits asked for."""


class MismatchError(InputError):
    """A scene unlike what the model was trained on."""


class ModelError(InputError):
    """An architecture, weights or bundle that cannot be built or read."""


class FormatError(InputError):
    """One of geoseg's own files is damaged, or newer than this version reads."""


class LearningError(GeosegError):
    """Training came to nothing, as with a loss that is not a number."""


class MissingPackageError(GeosegError, ImportError):
    """A package that only some need, an extra of geoseg, is not installed."""


class MissingFileError(GeosegError, FileNotFoundError):
    """A file or folder that is not there."""


class OutputExistsError(GeosegError, FileExistsError):
    """An output would replace a file, and `overwrite` was not given."""


class OutputBusyError(GeosegError):
    """Another run writes into the same folder."""


class DiskError(GeosegError, OSError):
    """What was written is not what stands on the disk."""


class SomeScenesError(GeosegError):
    """Some of several scenes failed.

    Attributes:
        made: what was made of the others.
        failed: why, per scene.
    """

    def __init__(self, made: Sequence[object], failed: Sequence[GeosegError]) -> None:
        self.made, self.failed = tuple(made), tuple(failed)
        super().__init__(
            f"{len(failed)} of {len(made) + len(failed)} scenes failed, the others are done: {'; '.join(map(str, failed))}"
        )


class PreflightError(GeosegError):
    """Several faults, found before any work began; warnings too, where these are errors.

    Attributes:
        faults: the errors, in the order they were found; at least two.
    """

    def __init__(self, faults: Sequence[GeosegError | GeosegWarning]):
        self.faults = tuple(faults)
        super().__init__("\n".join(str(fault) for fault in self.faults))


class GeosegWarning(UserWarning):
    """The root of every warning; `--strict` makes each an error."""


class DataWarning(GeosegWarning):
    """Something in the data was left out, or read in a particular way."""


class MismatchWarning(GeosegWarning):
    """A scene differs from the training data, but can be used."""


class Faults:
    """Collects errors so that all of them are reported at once.

    Example:
        >>> faults = Faults()
        >>> with faults.collect():
        ...     raise RasterError("a.tif: not a TIFF")
        >>> len(faults.errors)
        1
    """

    def __init__(self) -> None:
        self.errors: list[GeosegError | GeosegWarning] = []

    @contextmanager
    def collect(self) -> Iterator[None]:
        """Keep a `GeosegError` raised in the block, or a warning where these are errors, and go on after it."""
        try:
            yield
        except PreflightError as several:
            self.errors.extend(several.faults)
        except (GeosegError, GeosegWarning) as error:
            self.errors.append(error)

    def distinct(self) -> tuple[GeosegError | GeosegWarning, ...]:
        """Those that were found, each once: a file may serve many scenes."""
        return tuple({str(error): error for error in self.errors}.values())

    def raise_any(self) -> None:
        """Raise the one error found, or a `PreflightError` with all of them; each is said once."""
        errors = self.distinct()
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise PreflightError(errors)
