"""What the QGIS plugin Deepness wants of a network: how it divides pixels, and what it reads beside them.

By its source, version 0.6.5: processing/models/model_base.py, common/processing_overlap.py.
"""

from __future__ import annotations

import json
from itertools import count
from typing import Any

from geoseg.bundle import Bundle
from geoseg.errors import ModelError
from geoseg.interchange import INPUT

UNIT = 255.0
"""It divides all pixels by this, whatever their dtype."""
_AMPLE = 256
"""Rows of a tile that are not mostly margin."""


def deepness_facts(bundle: Bundle, tile_size: int, divisor: int) -> dict[str, str]:
    """What Deepness reads in an ONNX file, by name, each as JSON.

    Args:
        bundle: the model.
        tile_size: rows and cols of a window.
        divisor: a network's `size_divisor`.

    Raises:
        ModelError: tiles of that size leave nothing between their margins, or cannot begin where the network wants them to.
    """
    overlap = tiles_overlap(tile_size, bundle.margin, divisor)
    if overlap is None:
        # Overlaps are whole percents, so not every multiple will do.
        sizes = (size for size in count(divisor, divisor) if tiles_overlap(size, bundle.margin, divisor) is not None)
        least = next(sizes)
        ample = next(size for size in sizes if size >= _AMPLE)
        raise ModelError(
            f"--tile-size {tile_size}: the model must see {bundle.margin} pixels around the ground it answers for, and works "
            f"on squares of {divisor}, which tiles of this size cannot begin with; take {least}, or rather {ample}"
        )
    bands = len(bundle.image.bands)
    facts: dict[str, Any] = {
        "model_type": "Segmentor",
        "class_names": {str(index): entry.name for index, entry in enumerate(bundle.legend.classes)},
        "tile_size": tile_size,
        "tiles_overlap": overlap,
        "standardization_mean": [0.0] * bands,
        "standardization_std": [1.0] * bands,
        "seg_thresh": bundle.threshold if bundle.one_channel else 0.0,
        "seg_small_segment": 1,
        INPUT: "raw values of the bands, in their order, divided by 255",
    }
    size = bundle.image.map_pixel_size_m or bundle.image.pixel_size_m
    if size is not None:
        facts["resolution"] = round(100 * size, 4)  # in centimetres, and those of the map, not of the ground
    return {name: json.dumps(value, ensure_ascii=False) for name, value in facts.items()}


def tiles_overlap(tile_size: int, margin: int, divisor: int) -> int | None:
    """How far tiles must overlap, in percent, so that half of it is no less than the margin; None where none will do.

    Tiles must also begin on the squares that the network divides an image into, as geoseg's windows do: a network of
    stride 32 draws other outlines on tiles that begin elsewhere.
    """
    for percent in range(100):
        overlap = int(tile_size * percent / 100 * 2) // 2  # as in its common/processing_overlap.py
        if tile_size % divisor == (tile_size - overlap) % divisor == 0 and overlap >= 2 * margin:
            return percent if overlap < tile_size else None
    return None
