"""The verb `card`: what a model is, for people and for catalogues."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.bundle import Bundle, open_bundle
from geoseg.display import Displayed
from geoseg.errors import DataWarning, Faults, FormatError, MismatchError
from geoseg.files import read_json, refuse_existing, stage, write_json
from geoseg.model_card import write_card
from geoseg.report_tables import METRICS
from geoseg.stac import model_item, parse_time

CARD, ITEM = "model_card.md", "model_stac.json"


@dataclass(frozen=True, repr=False)
class ModelCard(Displayed):
    """A model card and a STAC item that were written.

    Attributes:
        path: the folder.
        item: the STAC item, as it stands in the file.
    """

    path: Path
    item: dict[str, Any]

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return (
            f"{self.path / CARD}: for people\n{self.path / ITEM}: for catalogues, STAC MLM 1.5 item {self.item['id']}"
        )

    def to_dict(self) -> dict[str, Any]:
        """`path`, and the `item`."""
        return {"path": str(self.path), "item": self.item}


_MODELS = (("model", "weights_sha256"), ("map", "model_sha256"))
"""Where the provenance of a report tells which model it is about."""


def card(
    *,
    model: str | Path = "model",
    out: str | Path = "card",
    report: str | Path | None = None,
    datetime: str | None = None,
    overwrite: bool = False,
) -> ModelCard:
    """Write a model card in Markdown, and a STAC item by the extension Machine Learning Model 1.5.

    Args:
        model: bundle.
        out: folder.
        report: of `geoseg evaluate`, a folder or its metrics.json, whose scores go into the card.
        datetime: when the scenes were taken that the model learned from, such as 2026-06-30 or 2026-05-01/2026-09-30; None
            writes down that any time is possible.
        overwrite: replace an earlier card.

    Raises:
        GeosegError: no model, no report, or that of another model; nothing is left behind.
    """
    out, faults = Path(out), Faults()
    with faults.collect():
        refuse_existing([out / CARD, out / ITEM], overwrite)
    with faults.collect():
        time = parse_time(datetime)
    with faults.collect():
        bundle = open_bundle(model)
        scores = None if report is None else _read_report(Path(report), bundle)
    faults.raise_any()
    parameters = sum(weight.numel() for weight in bundle.network().parameters())
    with stage(out, last=ITEM, replaces=[CARD], overwrite=overwrite) as staging:
        try:
            item = model_item(bundle, time, parameters=parameters, folder=out)
            text = write_card(bundle, parameters, scores)
        except (TypeError, ValueError, AttributeError, LookupError) as error:  # nothing else reads those facts
            raise FormatError(
                f"{bundle.path}: what its model.json or the report tell of training and scores cannot be read ({error}); make "
                f"it again"
            ) from None
        item["assets"]["card"] = {
            "href": f"./{CARD}",
            "type": "text/markdown",
            "roles": ["metadata"],
            "title": "Model card",
        }
        (staging / CARD).write_text(text, encoding="utf-8")
        write_json(staging / ITEM, item)
    return ModelCard(out, item)


def _read_report(path: Path, bundle: Bundle) -> dict[str, Any]:
    path = path / METRICS if path.is_dir() else path
    scores = read_json(path, newest=1, what="the scores of geoseg evaluate")
    known = {"what", "classes", "sample", "provenance"} <= scores.keys()
    if not known or not isinstance(scores["provenance"], dict):
        raise FormatError(f"{path}: no scores of geoseg evaluate; name its folder")
    told = [(scores["provenance"].get(what) or {}, key) for what, key in _MODELS]
    models = [facts.get(key) if isinstance(facts, dict) else "?" for facts, key in told]
    if any(model not in (None, bundle.weights_sha256) for model in models):
        raise MismatchError(
            f"{path}: the scores of another model than {bundle.path} (SHA-256 of the weights differs); evaluate it"
        )
    if bundle.weights_sha256 not in models:
        warnings.warn(
            f"{path}: nothing in it tells that these are the scores of {bundle.path}; score a class raster of geoseg predict, or chips",
            DataWarning,
            stacklevel=3,
        )
    return scores
