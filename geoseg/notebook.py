"""Results in a notebook: a piece of HTML for each, with its summary and, where one tells more, a picture."""

from __future__ import annotations

import base64
import html as escaping
import io
from collections.abc import Callable
from contextlib import suppress
from functools import singledispatch
from typing import Any

from matplotlib.figure import Figure

from geoseg import plot
from geoseg.bundle import Bundle
from geoseg.chips import ChipFolder
from geoseg.errors import GeosegError
from geoseg.evaluation import Evaluation
from geoseg.legend import Legend
from geoseg.scene_maps import ScenePrediction
from geoseg.studies import REPORT


@singledispatch
def html(result: Any) -> str:
    """HTML for a result, which needs nothing beside it; of what is of no kind known here, its summary."""
    return _summary(result)


@html.register
def _(legend: Legend) -> str:
    rows = (
        f"<tr><td>{entry.value}</td><td>{_swatch(entry.colour)} {escaping.escape(entry.name)}</td>"
        f"<td>{entry.role or ''}</td></tr>"
        for entry in legend
    )
    return f"<table><tr><th>value</th><th>class</th><th>role</th></tr>{''.join(rows)}</table>"


@html.register
def _(folder: ChipFolder) -> str:
    return _with_picture(folder, lambda: plot.chips(folder))


@html.register
def _(bundle: Bundle) -> str:
    return _with_picture(bundle, lambda: plot.curves(bundle))


@html.register
def _(found: ScenePrediction) -> str:
    return _with_picture(found, lambda: plot.prediction(found))


@html.register
def _(evaluation: Evaluation) -> str:
    address = escaping.escape((evaluation.path / REPORT).resolve().as_uri())
    return f'{_summary(evaluation)}<a href="{address}" target="_blank">Open the report</a>'


def _summary(result: Any) -> str:
    return f"<pre>{escaping.escape(str(result))}</pre>"


def _with_picture(result: Any, draw: Callable[[], Figure]) -> str:
    picture = ""
    with suppress(GeosegError, OSError):  # the files may be gone by now; what is known is shown all the same
        buffer = io.BytesIO()
        draw().savefig(buffer, format="png", dpi=80)
        picture = f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    return _summary(result) + picture


def _swatch(colour: str) -> str:
    return f'<span style="display:inline-block;width:0.9em;height:0.9em;background:{colour}"></span>'
