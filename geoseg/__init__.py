"""geoseg: from GeoTIFF scenes and labels to cultivated-land polygons, with an honest accuracy report.

Each command is a function of the same name with the same options:

    tile          scenes and labels to chips
    train         chips to a model
    predict       a model and scenes to class rasters and polygons
    polygonize    a class raster to polygons
    evaluate      how far to trust a model or a map
    sample        points to label, for areas with an interval
    suggest       windows to label next
    export        a model for other programs
    card          what a model is, for people and catalogues
    info, check   what a file is; what would go wrong

`geoseg.plot` draws chips, curves and maps.

A module imports from the floors below its own, and from its own floor where that makes no circle; verbs (floor 3) never
import one another:

    floor 4   cli __main__; progress_bar; plot notebook
    floor 3   tiling training prediction polygons evaluation sampling suggestion exporting cataloguing describing checking
    floor 2   chips picture_layouts picture_masks pictures pairs survey preflight; models borders unet fcn losses
              bundle reach; devices folding engines views predictor merging standalone interchange deepness
              inference seams; augment optimisation recipe transfer plan
              samples learning checkpoints fitting; outlines chains components tracing sweep nearby simplification smoothing
              fields changes small_features generalisation confidence polygon_layer class_rasters balance vectorise; strips styles qgis
              maps mapping cluster scene_maps figures; boundary_scores object_scores mapped_area ground map_pairs
              trials tally assessment class_map place_layer point_style reference_points point_estimates
              report_tables report_figures report model_card stac disturbances robustness studies acquisition
    floor 1   raster remote geotiff vector geopackage scenes labels polygon_labels split footprints pixel_areas
    floor 0   errors quieting extras choices display named_parts progress interruption pipeline legend spec grid metrics intervals
              calibration comparison area_estimation field_boundaries files version
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoseg.version import VERSION

__version__ = VERSION

_HOMES = {
    "card": "cataloguing",
    "check": "checking",
    "evaluate": "evaluation",
    "export": "exporting",
    "info": "describing",
    "polygonize": "polygons",
    "predict": "prediction",
    "sample": "sampling",
    "suggest": "suggestion",
    "tile": "tiling",
    "train": "training",
    "GeosegError": "errors",
    "GeosegWarning": "errors",
    "ImageSpec": "spec",
    "Legend": "legend",
    "ProgressBar": "progress_bar",
    "parse_legend": "legend",
}

__all__ = [
    "GeosegError",
    "GeosegWarning",
    "ImageSpec",
    "Legend",
    "ProgressBar",
    "card",
    "check",
    "evaluate",
    "export",
    "info",
    "parse_legend",
    "plot",
    "polygonize",
    "predict",
    "sample",
    "suggest",
    "tile",
    "train",
]

if TYPE_CHECKING:
    from geoseg import plot
    from geoseg.cataloguing import card
    from geoseg.checking import check
    from geoseg.describing import info
    from geoseg.errors import GeosegError, GeosegWarning
    from geoseg.evaluation import evaluate
    from geoseg.exporting import export
    from geoseg.legend import Legend, parse_legend
    from geoseg.polygons import polygonize
    from geoseg.prediction import predict
    from geoseg.progress_bar import ProgressBar
    from geoseg.sampling import sample
    from geoseg.spec import ImageSpec
    from geoseg.suggestion import suggest
    from geoseg.tiling import tile
    from geoseg.training import train


def __getattr__(name: str) -> Any:
    """Load a public name when it is first asked for (PEP 562), so that importing geoseg does not import torch."""
    if name == "plot":
        return import_module("geoseg.plot")
    if name in _HOMES:
        value = getattr(import_module(f"geoseg.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'geoseg' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
