"""Classes read from texts and files, and indices to values and back."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoseg.errors import LegendError
from geoseg.legend import IGNORE, Legend, LegendClass, make_legend, parse_legend


def values(largest: int = 65535):
    return st.lists(st.integers(0, largest), min_size=1, max_size=254, unique=True)


# --- reading


def test_a_text_with_names_and_colours():
    legend = parse_legend("0=background, 1=cultivated:#E5B52A ,7")
    assert legend.values == (0, 1, 7)
    assert legend.names == ("background", "cultivated", "class_7")
    assert legend.classes[1].colour == "#e5b52a"
    assert [entry.role for entry in legend] == ["background", None, None]
    assert str(legend) == "0=background, 1=cultivated, 7=class_7"


def test_values_of_one_name_are_one_class():
    legend = parse_legend("0=background,5=crop:#e5b52a,24=crop,7=grass,1=crop")
    assert legend.values == (0, 5, 7)
    assert legend.label_values == (0, 5, 24, 1, 7)
    assert str(legend) == "0=background, 5+24+1=crop, 7=grass"
    assert [legend.index(key) for key in ("crop", 5, 24, "1", 7)] == [1, 1, 1, 1, 2]
    assert legend.group(np.array([[0, 1, 5], [24, 7, 9]], np.int32)).tolist() == [[0, 5, 5], [5, 7, 9]]
    assert Legend.from_list(legend.to_list()).values == legend.values
    assert legend.with_boundary().values[-1] == 25
    assert parse_legend("1=crop,5=crop:#ff0000").classes[0].colour == "#ff0000"
    with pytest.raises(LegendError, match="value 5 stands twice"):
        parse_legend("5=crop,6=crop,5=grass")


def test_a_table_of_many_codes_becomes_few_classes(tmp_path):
    path = tmp_path / "codes.csv"
    path.write_text("value,name\n0,background\n" + "".join(f"{code}, crop\n" for code in range(1, 60_000)))
    legend = parse_legend(path)
    assert (legend.values, len(legend.label_values)) == ((0, 1), 60_000)
    assert str(legend) == "0=background, 1+59998 more=crop"


def test_names_of_any_script_with_spaces():
    assert parse_legend("1=耕地,2=Grünland und Weide").names == ("耕地", "Grünland und Weide")


@pytest.mark.parametrize("text", ["1=a:red", "a=1", "1=a=:", "-1=a", "1=a:#12", "1.5=a"])
def test_a_text_that_cannot_be_read_names_the_part(text):
    with pytest.raises(LegendError, match="VALUE=NAME"):
        parse_legend("0=ok," + text)


@pytest.mark.parametrize("suffix", ["csv", "json"])
def test_files_hold_the_same_as_a_text(tmp_path, suffix):
    path = tmp_path / f"classes.{suffix}"
    if suffix == "csv":  # as Excel writes it, with a byte order mark
        path.write_text(
            "value,name,colour,role,note\n0,nothing,,background,x\n3,wheat,#AABBCC,,y\n", encoding="utf-8-sig"
        )
    else:
        entries = [
            {"value": 0, "name": "nothing", "role": "background"},
            {"value": "3", "name": "wheat", "color": "#AABBCC"},
        ]
        path.write_text(json.dumps(entries))
    legend = parse_legend(path)
    assert (legend.values, legend.names, legend.background) == ((0, 3), ("nothing", "wheat"), 0)
    assert legend.classes[1].colour == "#aabbcc"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.json", "{}"), ("a.json", "[1, 2]"), ("a.json", "["), ("a.json", "[]"), ("a.json", '[{"name": "a"}]'),
        ("a.json", '[{"value": 1.5}]'), ("a.json", '[{"value": 1, "colour": 5}]'), ("a.json", '[{"value": true}]'),
        ("a.csv", "name\nwheat\n"), ("a.csv", "value,name\nx,wheat\n"), ("a.csv", ""), ("a.csv", "value\n1\n1\n"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(LegendError, match=r"a\.(json|csv)"):
        parse_legend(path)


def test_a_file_that_is_missing_or_not_a_text_is_named(tmp_path):
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00\x81")
    for name in ("a.csv", "b.csv"):
        with pytest.raises(LegendError, match=name):
            parse_legend(tmp_path / name)


def test_a_name_that_json_takes_for_a_number_is_a_name(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('[{"value": 1, "name": 2015}]')
    assert parse_legend(path).names == ("2015",)


# --- what a legend may be


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "0 found"),
        ([(value, None, None, None) for value in range(255)], "255 found"),
        ([(1, "a", None, None), (1, "b", None, None)], "value 1 stands twice"),
        ([(1, "a", None, None), (2, "a", None, None)], "name a stands twice"),
        ([(65536, "a", None, None)], "0 to 65535"),
        ([(-1, "a", None, None)], "0 to 65535"),
        ([(1, "a", "red", None)], "#rrggbb"),
        ([(1, "a", None, "border")], "background, boundary"),
    ],
)
def test_unusable_classes_are_refused_with_the_reason(classes, message):
    entries = [dict(zip(("value", "name", "colour", "role"), entry, strict=True)) for entry in classes]
    with pytest.raises(LegendError, match=message):
        Legend.from_list(entries)


def test_the_background_is_the_role_or_else_value_0_or_else_none():
    assert make_legend([1, 0, 2]).background == 1
    assert make_legend([1, 2]).background is None
    assert parse_legend("0=crop,5=Background").background == 1
    chosen = make_legend([0, 1, 2], ["a", "b", "c"]).with_background("c")
    assert chosen.background == 2
    assert chosen.with_background(1).background == 1
    assert [entry.role for entry in chosen.with_background(1)] == [None, "background", None]


def test_made_up_colours_differ_and_leave_the_background_grey():
    legend = make_legend(range(12))
    colours = [entry.colour for entry in legend]
    assert len(set(colours)) == 12
    assert colours[0] == "#d9d9d9"
    assert make_legend([0, 1], colours=[None, "#112233"]).classes[1].colour == "#112233"


def test_the_254_classes_a_legend_may_have():
    legend = make_legend(range(1, 255))
    assert (len(legend), legend.nodata, legend.dtype) == (254, 255, "uint8")


# --- looking up


def test_classes_are_found_by_name_and_by_value():
    legend = make_legend([10, 20], ["wheat", "maize"])
    assert [legend.index(key) for key in ("maize", " wheat ", 20, "10")] == [1, 0, 1, 0]
    with pytest.raises(LegendError, match=r"'rye'.*10=wheat, 20=maize"):
        legend.index("rye")


def test_a_name_goes_before_a_value():
    assert make_legend([1, 2], ["2", "1"]).index("2") == 0


@pytest.mark.parametrize(
    ("classes", "dtype", "nodata"),
    [([0, 1], "uint8", 255), ([0, 255], "uint8", 254), ([254, 255], "uint8", 253), ([256], "uint16", 65535),
     ([65535, 65534], "uint16", 65533)],
)  # fmt: skip
def test_the_smallest_dtype_and_the_largest_free_value(classes, dtype, nodata):
    legend = make_legend(classes)
    assert (legend.dtype, legend.nodata) == (dtype, nodata)


def test_values_to_indices_by_hand():
    legend = make_legend([10, 300])
    found = legend.to_indices(np.array([[10, 300], [0, 65535]], np.uint16))
    assert found.dtype == np.uint8
    assert found.tolist() == [[0, 1], [IGNORE, IGNORE]]
    back = legend.to_values(found)
    assert back.dtype == np.uint16
    assert back.tolist() == [[10, 300], [65535, 65535]]


@given(values())
def test_values_come_back_and_nodata_is_no_class(classes):
    legend = make_legend(classes)
    assert legend.nodata not in classes
    assert legend.nodata <= np.iinfo(legend.dtype).max
    raster = np.array([*classes, legend.nodata])
    indices = legend.to_indices(raster)
    assert indices.tolist() == [*range(len(classes)), IGNORE]
    assert np.array_equal(legend.to_values(indices), raster)


@given(values(300))
def test_a_legend_comes_back_from_json(classes):
    legend = make_legend(classes)
    assert Legend.from_list(json.loads(json.dumps(legend.to_list()))) == legend


def test_roles_and_colours_come_back_from_json():
    legend = Legend((LegendClass(0, "edge", "#000000", "boundary"), LegendClass(9, "else", "#ffffff", "background")))
    assert Legend.from_list(legend.to_list()) == legend
