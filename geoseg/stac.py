"""Items that catalogues read: a model, by the STAC extension MLM, and the map of a scene (STAC 1.1.0)."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from geoseg.bundle import CARD, WEIGHTS, Bundle
from geoseg.errors import InputError
from geoseg.files import sha256
from geoseg.footprints import Outline, close_ring, longitudes, split_at_180
from geoseg.legend import Legend
from geoseg.scenes import Scene
from geoseg.spec import Band
from geoseg.version import VERSION

_VERSION = "1.1.0"
_SCHEMA = "https://stac-extensions.github.io/{}/schema.json"
_MLM, _FILE, _CLASSIFICATION = (_SCHEMA.format(name) for name in ("mlm/v1.5.2", "file/v2.1.0", "classification/v1.1.0"))
_PROJECTION, _PROCESSING = (_SCHEMA.format(name) for name in ("projection/v2.0.0", "processing/v1.2.0"))

_ANY_TIME = {"datetime": None, "start_datetime": "1900-01-01T00:00:00Z", "end_datetime": "9999-12-31T23:59:59Z"}
"""What MLM's best practices say where no time is known: STAC has no word for that."""

_MEDIA_TYPES = {
    ".tif": "image/tiff; application=geotiff; profile=cloud-optimized",
    ".gpkg": "application/geopackage+sqlite3",
    ".json": "application/json",
    ".md": "text/markdown",
    ".qgz": "application/zip",
    ".safetensors": "application/vnd.safetensors",
}


def parse_time(text: str | None) -> dict[str, str | None]:
    """The time of an item: an instant, or an interval of two split by a slash, in ISO 8601; any time for None.

    A date without an hour is its first second, or as the end of an interval its last one. Times without a zone are in UTC.

    Raises:
        InputError: not a time, or one that ends before it begins.
    """
    if text is None:
        return dict(_ANY_TIME)
    first, slash, last = text.partition("/")
    begin = _instant(first, text)
    if not slash:
        return {"datetime": _told(begin)}
    end = _instant(last, text)
    if _is_date(last):
        end = end.replace(hour=23, minute=59, second=59)
    if end < begin:
        raise InputError(f"--datetime {text}: it ends before it begins")
    return {"datetime": None, "start_datetime": _told(begin), "end_datetime": _told(end)}


def _instant(text: str, whole: str) -> datetime:
    try:
        found = datetime.fromisoformat(text.strip())
        return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):  # the latter: in UTC it is before the year 1, or after 9999
        raise InputError(
            f"--datetime {whole}: a time such as 2026-06-30, 2026-06-30T10:20:30Z or 2026-05-01/2026-09-30 is needed"
        ) from None


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text.strip())
    except ValueError:
        return False
    return True


def _told(instant: datetime) -> str:
    return instant.replace(tzinfo=None).isoformat(timespec="seconds") + "Z"


def model_item(bundle: Bundle, time: Mapping[str, str | None], *, parameters: int, folder: Path) -> dict[str, Any]:
    """A STAC item of a model.

    Args:
        bundle: the model.
        time: when its scenes were taken, see `parse_time`.
        parameters: of its network.
        folder: where the item ends up, which the links to the files go out from.
    """
    image, training, legend = bundle.image, bundle.training, bundle.legend
    pretrained = _pretrained(training)
    size = min(training.get("crop") or image.chip_size, image.chip_size)
    properties = {
        **time,
        "title": bundle.path.resolve().name,
        "description": f"Classes: {', '.join(legend.names)}. Made with geoseg {VERSION}.",
        "bands": [_band(band) for band in image.bands],
        **({"gsd": round(image.pixel_size_m, 4)} if image.pixel_size_m else {}),
        "mlm:name": _plain_name(bundle.path.resolve().name),
        "mlm:architecture": _architecture(bundle),
        "mlm:framework": "PyTorch",
        "mlm:framework_version": training.get("versions", {}).get("torch", "unknown"),
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:total_parameters": parameters,
        "mlm:pretrained": pretrained is not None,
        "mlm:pretrained_source": pretrained,
        "mlm:hyperparameters": _hyperparameters(bundle),
        "mlm:input": [
            {
                "name": "pixels",
                "bands": list(image.names),
                "input": {
                    "shape": [-1, len(image.bands), size, size],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": [{"type": "z-score", "mean": band.offset, "stddev": band.scale} for band in image.bands],
                "resize_type": None,
                "pre_processing_function": {"format": "python", "expression": "geoseg.spec:ImageSpec.normalise"},
            }
        ],
        "mlm:output": [
            {
                "name": "logits",
                "tasks": ["semantic-segmentation"],
                "bands": [],
                "result": {
                    "shape": [-1, bundle.architecture.classes, size, size],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": _classes(legend),
                "post_processing_function": {"format": "python", "expression": "geoseg.predictor:Predictor.decide"},
            }
        ],
    }  # fmt: skip
    weights = _asset(
        bundle.path / WEIGHTS, folder, ["mlm:model", "mlm:weights", "data"], "Weights", bundle.weights_sha256
    )
    # Bands of an item need an asset that has some (STAC 1.1.0, item.json).
    weights |= {"mlm:artifact_type": "safetensors.torch.save_file", "bands": [{"name": name} for name in image.names]}
    card = _asset(
        bundle.path / CARD, folder, ["metadata"], "All that prediction needs to know", sha256(bundle.path / CARD)
    )
    outlines = [outline for outline in training.get("ground", {}).values() if outline]
    return _item(
        f"{bundle.path.resolve().name}-{bundle.weights_sha256[:12]}", [_MLM, _FILE, _CLASSIFICATION], outlines, properties,
        {"weights": weights, "model": card},
    )  # fmt: skip


def map_item(
    scene: Scene,
    legend: Legend,
    files: Mapping[str, Path],
    time: Mapping[str, str | None],
    provenance: Mapping[str, Any],
    sums: Mapping[str, str],
) -> dict[str, Any]:
    """A STAC item of the map of a scene.

    Args:
        scene: that was mapped; the map has its grid.
        legend: the classes.
        files: of the map, by kind; all lie in the folder of the item.
        time: when the scene was taken, see `parse_time`.
        provenance: what the map was made of and with; `model_sha256` among it.
        sums: hexadecimal SHA-256 of the files, by name.
    """
    roles = {"classes": ["data"], "polygons": ["data"], "project": ["visual"]}
    titles = {
        "classes": "Classes", "confidence": "Probability of the class chosen", "polygons": "Polygons of the classes",
        "probabilities": "Probability of every class", "project": "All of it, for QGIS",
    }  # fmt: skip
    place = {
        "proj:code": _code(scene),
        "proj:shape": [scene.height, scene.width],
        "proj:transform": list(scene.transform)[:6],
    }
    if place["proj:code"] is None:
        place["proj:wkt2"] = scene.crs.to_wkt("WKT2_2019") if scene.crs else None
    assets = {}
    for kind, path in files.items():
        assets[kind] = _asset(path, path.parent, roles.get(kind, ["metadata"]), titles[kind], sums[path.name])
        if kind == "classes":
            assets[kind] |= {"classification:classes": _classes(legend)}
    properties = {
        **time,
        "title": f"{scene.name}, classes {', '.join(legend.names)}",
        **({"gsd": round(scene.pixel_size_m, 4)} if scene.pixel_size_m else {}),
        **place,
        "processing:software": {"geoseg": VERSION},
        "processing:lineage": "Classes of the pixels of a scene by a trained network, and their outlines",
        **{f"geoseg:{key}": value for key, value in provenance.items()},
    }
    outlines = [scene.footprint] if scene.footprint else []
    extensions = [_PROJECTION, _PROCESSING, _FILE, _CLASSIFICATION]
    return _item(f"{scene.name}-{provenance['model_sha256'][:12]}", extensions, outlines, properties, assets)


def _item(
    name: str,
    extensions: Sequence[str],
    outlines: Sequence[Outline],
    properties: Mapping[str, Any],
    assets: Mapping[str, Any],
) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "Feature",
        "stac_version": _VERSION,
        "stac_extensions": list(extensions),
        "id": re.sub(r"[^\w.-]+", "_", name),
        "geometry": None,
        "properties": dict(properties),
        "links": [],
        "assets": dict(assets),
    }
    if outlines:
        lats = [lat for outline in outlines for _, lat in outline]
        west, east = longitudes(outlines)
        parts = [part for outline in outlines for part in split_at_180(outline)]
        document["geometry"] = {"type": "MultiPolygon", "coordinates": [[close_ring(part)] for part in parts]}
        document["bbox"] = [west, min(lats), east, max(lats)]
    return document


def _asset(path: Path, folder: Path, roles: list[str], title: str, digest: str) -> dict[str, Any]:
    return {
        "href": quote(Path(os.path.relpath(path.resolve(), folder.resolve())).as_posix()),
        "type": _MEDIA_TYPES[path.suffix],
        "title": title,
        "roles": roles,
        "file:size": path.stat().st_size,
        "file:checksum": f"1220{digest}",  # a multihash: SHA-256, of 32 bytes
    }


def _band(band: Band) -> dict[str, Any]:
    told = band.statistics
    statistics = {"minimum": told.min, "maximum": told.max, "mean": told.mean, "stddev": told.std}
    entry: dict[str, Any] = {"name": band.name, "data_type": band.dtype, "statistics": statistics}
    # NaN is no data in any band of fractions, whether its file names it or another value.
    nodata = "nan" if band.nodata is None and band.dtype.startswith("float") else band.nodata
    return entry if nodata is None else entry | {"nodata": nodata}


def _classes(legend: Legend) -> list[dict[str, Any]]:
    return [
        {"value": entry.value, "name": entry.name, "description": entry.name, "color_hint": entry.colour[1:].upper()}
        for entry in legend
    ]


def _plain_name(name: str) -> str:
    """A name as the extension allows it: from a letter to a letter or digit, three of them or more."""
    kept = re.sub(r"[^a-zA-Z0-9_.-]+", "-", name).strip("-_.")
    return kept if re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.-]+[a-zA-Z0-9]", kept) else f"geoseg-{kept or 'model'}"


def _architecture(bundle: Bundle) -> str:
    arch = bundle.architecture
    return f"{arch.arch}, width {arch.width}" if arch.arch == "unet" else f"{arch.arch}, {arch.encoder}"


def _hyperparameters(bundle: Bundle) -> dict[str, Any]:
    idle = {"seconds", *(("encoder", "encoder_weights") if bundle.architecture.arch == "unet" else ("width",))}
    told = {
        key: value
        for key, value in bundle.training.items()
        if not isinstance(value, dict | list) and key not in idle and value not in ("", None)
    }
    if told.get("encoder_weights"):
        told["encoder_weights"] = Path(str(told["encoder_weights"])).name  # where it lay is nobody's business
    return {**told, "threshold": bundle.threshold, "margin": bundle.margin}


def _pretrained(training: Mapping[str, Any]) -> str | None:
    """What the network began with; None for random weights."""
    weights = training.get("encoder_weights")
    found = training.get("init") or (None if weights in (None, "none") else weights)
    return {"imagenet": "ImageNet"}.get(str(found), Path(str(found)).name) if found else None


def _code(scene: Scene) -> str | None:
    authority = scene.crs.to_authority(confidence_threshold=100) if scene.crs else None
    return ":".join(authority) if authority else None
