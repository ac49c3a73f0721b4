"""Where processes come from that have everything loaded, but nothing begun: for tests that start hundreds of them."""

from __future__ import annotations

import multiprocessing
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext

_LOADED = (
    "geoseg.prediction", "geoseg.training", "geoseg.evaluation", "geoseg.tiling", "geoseg.polygons", "geoseg.sampling",
    "geoseg.suggestion", "geoseg.exporting", "geoseg.cataloguing", "geoseg.engines", "geoseg.cluster", "distributed",
    "segmentation_models_pytorch", "lightning.pytorch", "pyarrow.parquet",
)  # fmt: skip


def nursery() -> ForkServerContext:
    """A context whose processes are copies of one that has imported all that a command may import before it begins.

    A process has one such server for all its tests: whoever started it with less would make each copy import for seconds.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(_LOADED))
    forkserver.ensure_running()
    return context
