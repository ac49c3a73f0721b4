"""The tree of errors, and collecting several of them."""

from __future__ import annotations

import re

import pytest

from geoseg import errors
from geoseg.errors import Faults, GeosegError, GeosegWarning, MissingFileError, PreflightError, RasterError

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_the_docstring_draws_every_error_and_warning_with_its_builtin():
    drawn = dict(re.findall(r"(\w+(?:Error|Warning))(?: \((\w+)\))?", errors.__doc__))
    assert set(drawn) == {kind.__name__ for kind in KINDS}
    for kind in KINDS:
        builtins = {base.__name__ for base in kind.__bases__ if base.__module__ == "builtins"} - {"Exception"}
        assert builtins == ({drawn[kind.__name__]} - {""})


@pytest.mark.parametrize("kind", KINDS)
def test_everything_has_one_of_the_two_roots(kind):
    assert issubclass(kind, GeosegError) != issubclass(kind, GeosegWarning)


@pytest.mark.parametrize(
    ("kind", "builtin"),
    [
        (errors.RasterError, ValueError),
        (errors.LegendError, ValueError),
        (errors.FormatError, ValueError),
        (errors.MissingFileError, FileNotFoundError),
        (errors.OutputExistsError, FileExistsError),
        (errors.DiskError, OSError),
        (errors.DataWarning, UserWarning),
    ],
)
def test_a_caller_who_only_knows_the_builtin_catches_it(kind, builtin):
    assert issubclass(kind, builtin)


def test_no_fault_raises_nothing():
    faults = Faults()
    faults.raise_any()
    assert faults.errors == []


def test_one_fault_is_raised_as_itself():
    faults, error = Faults(), RasterError("a.tif: not a raster")
    with faults.collect():
        raise error
    with pytest.raises(RasterError) as caught:
        faults.raise_any()
    assert caught.value is error


def test_several_faults_are_raised_in_order_and_work_goes_on_between():
    faults, done = Faults(), []
    for text in ("first", "second"):
        with faults.collect():
            raise RasterError(text)
        done.append(text)
    with faults.collect():
        done.append("well")
    assert done == ["first", "second", "well"]
    with pytest.raises(PreflightError) as caught:
        faults.raise_any()
    assert [str(fault) for fault in caught.value.faults] == ["first", "second"]
    assert str(caught.value) == "first\nsecond"


def test_faults_collected_elsewhere_are_taken_one_by_one():
    faults, several = Faults(), PreflightError([RasterError("a"), MissingFileError("b")])
    with faults.collect():
        raise several
    assert faults.errors == list(several.faults)


def test_other_exceptions_are_not_collected():
    faults = Faults()
    with pytest.raises(ZeroDivisionError), faults.collect():
        raise ZeroDivisionError
    assert faults.errors == []
