"""The words that options take: one list each for the functions' types and for the command line."""

from typing import Literal

Blend = Literal["auto", "crop", "hann"]
Connectivity = Literal[4, 8]
Engine = Literal["torch", "openvino"]
Format = Literal["gpkg", "fgb", "geojson", "parquet"]
Logger = Literal["csv", "tensorboard"]
Other = Literal["error", "ignore"]
Padding = Literal["reflect", "zeros"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Sampling = Literal["uniform", "balanced"]
Scaling = Literal["dataset", "unit", "percentile", "imagenet"]
SplitBy = Literal["block", "random", "scene"]
SplitName = Literal["train", "val", "test"]
TestTimeAugmentation = Literal["none", "flips", "d4", "shifts"]
Unlabelled = Literal["background", "ignore"]
