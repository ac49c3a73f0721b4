"""A model card: what a model maps, what it was made of, and how far to trust it, in Markdown.

The sections follow Mitchell et al. 2019 ("Model cards for model reporting", FAT*, section 4).
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from geoseg.bundle import Bundle
from geoseg.footprints import longitudes
from geoseg.report_tables import figure, sample_summary, summary
from geoseg.version import VERSION

_TOLD = (
    "recipe", "loss", "class_weights", "optimizer", "schedule", "lr", "weight_decay", "batch_size", "augment", "crop",
    "sampling", "ema", "encoder_weights", "init", "epochs_run", "best_epoch", "seed", "precision",
)  # fmt: skip
_POOR = 0.4
"""IoU below which a class is warned of."""


def write_card(bundle: Bundle, parameters: int, report: Mapping[str, Any] | None) -> str:
    """The text of a model card.

    Args:
        bundle: the model.
        parameters: of its network.
        report: the scores that `geoseg evaluate` wrote of it; None where there are none.
    """
    parts = [
        _head(bundle, parameters), "## Classes", _classes(bundle), "## What it takes", _image(bundle),
        "## What it learned from", _lessons(bundle), "## How far to trust it", _trust(bundle, report), "## Limits",
        "\n".join(f"- {line}" for line in _limits(bundle)), "## Use", _use(bundle),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


def _head(bundle: Bundle, parameters: int) -> str:
    arch, name = bundle.architecture, _inline(bundle.path.resolve().name)
    network = f"{arch.arch} of width {arch.width}" if arch.arch == "unet" else f"{arch.arch} on {arch.encoder}"
    return (
        "---\nlibrary_name: geoseg\npipeline_tag: image-segmentation\ntags:\n- remote-sensing\n- semantic-segmentation\n---\n\n"
        f"# {name}\n\nTells {len(bundle.legend)} classes of land apart, pixel by pixel: {network}, {parameters:,} parameters, made "
        f"with geoseg {VERSION}. SHA-256 of the weights: `{bundle.weights_sha256}`."
    )


def _classes(bundle: Bundle) -> str:
    scores = {entry["value"]: entry for entry in bundle.metrics.get("classes", [])}
    rows = []
    for entry in bundle.legend:
        found = scores.get(entry.value, {})
        told = [figure(found.get(key)) for key in ("iou", "precision", "recall")]
        rows.append([entry.value, entry.name, f"`{entry.colour}`", entry.role or "", *told])
    if bundle.one_channel:
        rows.append(["", f"threshold {bundle.threshold:g}", "", "", "", "", ""])
    return _table(["value", "name", "colour", "role", "IoU", "precision", "recall"], rows) + (
        "\n\nScores are those of the validation chips, by which the best epoch was chosen: they flatter the model."
    )


def _image(bundle: Bundle) -> str:
    image = bundle.image
    size = "of unknown size" if image.pixel_size_m is None else f"of {image.pixel_size_m:.4g} m"
    rows = [
        [
            band.name, band.source, band.dtype, "" if band.nodata is None else f"{band.nodata:g}",
            *(f"{value:.5g}" for value in (band.statistics.mean, band.statistics.std, band.statistics.p1, band.statistics.p99)),
        ]
        for band in image.bands
    ]  # fmt: skip
    heads = ["band", "number", "dtype", "nodata", "mean", "std", "1 %", "99 %"]
    return (
        f"Pixels {size}, of scenes with {image.source_count} bands, raw as they stand in the file. Figures are those of the "
        f"training chips; scaling: {image.scaling}.\n\n{_table(heads, rows)}"
    )


def _lessons(bundle: Bundle) -> str:
    training, places = bundle.training, []
    for name, outline in training.get("ground", {}).items():
        where = ["", ""]
        if outline:
            limits = longitudes([outline]), (min(lat for _, lat in outline), max(lat for _, lat in outline))
            where = [f"{low:.4f} to {high:.4f}" for low, high in limits]
        places.append([name, *where])
    chips = ", ".join(f"{count} for {split}" for split, count in training.get("chips", {}).items())
    told = {key: training[key] for key in _TOLD if training.get(key) not in (None, "")}
    if "encoder_weights" in told:
        told["encoder_weights"] = Path(str(told["encoder_weights"])).name  # where it lay is nobody's business
    options = [[key.replace("_", " "), value] for key, value in told.items()]
    return (
        f"Chips of {bundle.image.chip_size} x {bundle.image.chip_size} pixels: {chips or 'unknown'}.\n\n"
        + (_table(["scene", "longitude", "latitude"], places) + "\n\n" if places else "")
        + _table(["option", "value"], options)
    )


def _trust(bundle: Bundle, report: Mapping[str, Any] | None) -> str:
    overall = ", ".join(
        f"{name} {figure(bundle.metrics.get(key))}"
        for name, key in (("mean IoU", "miou"), ("pixel accuracy", "pixel_accuracy"), ("kappa", "kappa"))
    )
    if report is None:
        return (
            f"Validation chips: {overall}. Nothing independent is known yet: run `geoseg evaluate`, and make this card again with "
            "`--report report`."
        )
    told = sample_summary(dict(report)) if report["sample"] else summary(dict(report))
    return f"```text\n{told}\n```\n\nValidation chips, for comparison: {overall}."


def _limits(bundle: Bundle) -> Iterator[str]:
    size = bundle.image.pixel_size_m
    if size is not None:
        yield (
            f"It has only seen pixels of {size:.4g} m. `geoseg predict` warns where others are a quarter larger or smaller, and where "
            "the values of a scene are unlike those of training."
        )
    if bundle.training.get("ground"):
        yield "It has only seen the places and the days of the scenes above; crops, soils and light differ elsewhere."
    poor = [
        _inline(entry["name"])
        for entry in bundle.metrics.get("classes", [])
        if entry.get("iou") is not None and entry["iou"] < _POOR
    ]
    if poor:
        yield f"Do not rely on {', '.join(poor)}: an IoU below {_POOR:g} on the validation chips."
    yield f"A pixel is answered best with {bundle.margin} pixels around it, which `geoseg predict` sees to."
    if bundle.looks_far:
        yield "It looks at all of a window: maps made with other windows differ somewhat."


def _use(bundle: Bundle) -> str:
    name = shlex.quote(" ".join(bundle.path.resolve().name.split()))
    return f"```sh\ngeoseg predict scene.tif -m {name}\n```"


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(_inline(str(cell)) for cell in line) + " |" for line in lines)


def _inline(text: str) -> str:
    """A text that ends no cell and begins neither HTML nor a link or picture: names come from strangers' files."""
    return re.sub(r"([\\*\[\]|])", r"\\\1", " ".join(text.split())).replace("<", "&lt;")
