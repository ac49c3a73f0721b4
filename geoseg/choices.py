"""The words that options take: one list each for the functions' types and for the command line."""

from typing import Literal

Augment = Literal["none", "flips", "d4"]
Connectivity = Literal[4, 8]
Format = Literal["gpkg", "fgb", "geojson", "parquet"]
Other = Literal["error", "ignore"]
Padding = Literal["reflect", "zeros"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Scaling = Literal["dataset", "unit", "percentile"]
SplitBy = Literal["block", "random", "scene"]
SplitName = Literal["train", "val", "test"]
TestTimeAugmentation = Literal["none", "flips", "d4"]
Unlabelled = Literal["background", "ignore"]
