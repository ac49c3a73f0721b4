"""The command line: each command is one call of the function of the same name."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, get_args

import click

import geoseg
from geoseg import choices
from geoseg.errors import DiskError, GeosegError, GeosegWarning, PreflightError, SomeScenesError, without_controls
from geoseg.files import is_homeless
from geoseg.interruption import listen, preferring_stops
from geoseg.progress_bar import ProgressBar
from geoseg.quieting import quiet_letters


class Verb(click.Command):
    """A command with the options that all share: results on stdout; progress, warnings and errors on stderr."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += SHARED

    def invoke(self, ctx: click.Context) -> None:
        quiet, verbose, debug, strict, as_json, _ = (ctx.params.pop(str(option.name)) for option in SHARED)
        with _one_line_errors(debug), closing(_Bar(quiet=quiet)) as bar, _warnings_shown(bar, verbose, strict):
            ctx.params["progress"] = bar
            try:
                result = super().invoke(ctx)
                _print(_told(result, as_json))
                if hasattr(result, "raise_faults"):  # of `check`, which has told all the same
                    result.raise_faults()
            except SomeScenesError as some:
                _print(_told(list(some.made), as_json))
                raise


def _print(text: str) -> None:
    try:
        click.echo(_printable(text))
    except OSError as error:
        with suppress(OSError):  # nor may Python try again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise DiskError(
            f"standard output: the result could not be printed ({error.strerror}), but the work is done"
        ) from None


def _printable(text: str) -> str:
    return without_controls(text, kept="\n\t", instead="\N{REPLACEMENT CHARACTER}")


def _told(results: Any, as_json: bool) -> str:
    several = isinstance(results, list)
    if as_json:
        document = [result.to_dict() for result in results] if several else results.to_dict()
        return json.dumps(document, ensure_ascii=False, allow_nan=False)
    return "\n".join(map(str, results)) if several else str(results)


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Say an error in one line, and several faults in one line each; a traceback only for those who ask."""
    try:
        with preferring_stops():
            yield
    except KeyboardInterrupt as stop:
        _let_go()
        click.echo(_printable(f"Stopped. {stop}".rstrip()), err=True)
        sys.exit(128 + signal.SIGINT)
    except SystemExit as stop:  # SIGTERM
        _let_go()
        click.echo(_printable(" ".join(["Stopped.", *getattr(stop, "__notes__", ())])), err=True)
        raise
    except Exception as error:
        if debug:
            traceback.print_exc()
        raise click.ClickException(_printable(_lines(error))) from error


def _let_go() -> None:
    """Hear no complaints of what is cleared away after a stop, such as of a progress bar that was stopped while it was made."""
    sys.unraisablehook = lambda unraisable: None


def _lines(error: Exception) -> str:
    told = "; ".join([" ".join(str(error).split("\n")), *getattr(error, "__notes__", ())])
    match error:
        case PreflightError():
            return "\n".join([f"{len(error.faults)} faults, nothing was done", *map(_lines, error.faults)])
        case GeosegError():
            return told
        case GeosegWarning():
            return f"{told} (a warning, but for --strict)"
        case OSError() if is_homeless(error):  # torchvision asks for such a folder when it is imported
            return (
                f"{error.strerror}; free some room on one of these disks, or name a folder on another one with TMPDIR"
            )
        case UnicodeEncodeError() if sys.getfilesystemencoding() != "utf-8":
            return f"{error.object}: cannot be opened in a locale that knows no such letters; set LANG=C.UTF-8"
    return f"unforeseen {type(error).__name__}: {told}; run again with --debug and report it"


@contextmanager
def _warnings_shown(bar: _Bar, verbose: bool, strict: bool) -> Iterator[None]:
    """Show each warning of geoseg once, or raise it; those of the libraries only to those who ask."""
    logging.basicConfig(level=logging.INFO if verbose else logging.CRITICAL, format="%(name)s: %(message)s")
    said = set[str]()

    def say(message: Warning | str, *_: Any) -> None:
        if str(message) not in said:  # Python's own memory of what was said is lost whenever a filter changes
            said.add(str(message))
            bar.say(f"Warning: {message}")

    with warnings.catch_warnings(), quiet_letters():
        warnings.simplefilter("default" if verbose else "ignore")
        warnings.simplefilter("error" if strict else "always", GeosegWarning)
        warnings.showwarning = say  # type: ignore[assignment]
        yield


class _Bar(ProgressBar):
    """A progress bar that makes way for lines."""

    def say(self, line: str) -> None:
        """A line above the bar."""
        self.clear()
        click.echo(_printable(line), err=True)


def _load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> None:
    """Take the defaults of a command's options from its table in a TOML file."""
    if path is None:
        return
    try:
        with open(path, "rb") as file:
            tables = tomllib.load(file)
    except ValueError as error:  # not TOML, or not even UTF-8
        raise click.BadParameter(f"{path}: not TOML ({error})") from None
    for name, table in tables.items():
        if name not in cli.commands or not isinstance(table, dict):
            raise click.BadParameter(f"{path}: '{name}' is not a table of options of a command, such as [tile]")
    command = str(ctx.command.name)
    given = {name.replace("-", "_"): value for name, value in tables.get(command, {}).items()}
    options = {
        str(option.name): option
        for option in ctx.command.params
        if isinstance(option, click.Option) and option is not param
    }
    if not given.keys() <= options.keys():
        raise click.BadParameter(f"{path}: {command} has no option {', '.join(sorted(given.keys() - options.keys()))}")
    # As they would stand on the command line, so that they are read and refused alike.
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, list) else str(value) for name, value in given.items()
    }
    ctx.default_map = {name: [text] if options[name].multiple else text for name, text in texts.items()}


def _list_recipes(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if name == "list":
        from geoseg.recipe import describe_recipes

        click.echo(describe_recipes())
        ctx.exit()
    return name


class _Area(click.ParamType):
    """Square metres, or hectares such as `0.5ha`."""

    name = "m2|ha"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        text, unit = str(value).strip(), 1.0
        if text.endswith("ha"):
            text, unit = text.removesuffix("ha"), 1e4
        try:
            return float(text) * unit
        except ValueError:
            self.fail(f"'{value}' is no area; write square metres such as 5000, or hectares such as 0.5ha", param, ctx)


class _AutoInt(click.ParamType):
    """A whole number, or `auto`, for which the function is given `meaning`."""

    name = "auto|N"

    def __init__(self, meaning: str | None = None) -> None:
        self._meaning = meaning

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | str | None:
        return self._meaning if value == "auto" else click.INT.convert(value, param, ctx)


def _choice(words: Any) -> click.Choice[Any]:
    return click.Choice(get_args(words))


# What is not there, or may not be read, is said by the function.
PATH, FILE, AUTO_INT = click.Path(readable=False), click.Path(exists=True, dir_okay=False), _AutoInt()

SHARED = [
    click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress."),
    click.Option(["-v", "--verbose"], is_flag=True, help="Show what the libraries underneath have to say."),
    click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
    click.Option(["--strict"], is_flag=True, help="Treat warnings as errors."),
    click.Option(["--json"], is_flag=True, help="Print the result as JSON."),
    click.Option(
        ["--config"], type=FILE, callback=_load_config, help="TOML file with defaults: a table of options per command."
    ),
]

scenes_argument = click.argument("scenes", metavar="SCENE...", nargs=-1, required=True, type=PATH)
model_option = click.option("-m", "--model", type=PATH, default="model", help="Model folder.")
stack_option = click.option("--stack", is_flag=True, help="Each SCENE is a folder of single-band files.")
bands_option = click.option("--bands", help="Numbers or names, such as 4,3,2.")
classes_option = click.option(
    "--classes", help="0=background,1=cultivated:#e5b52a, or a CSV or JSON file; values of one name are one class."
)
label_nodata_option = click.option("--label-nodata", type=int, help="A label value that means unknown.")
class_field_option = click.option("--class-field", help="Column of a polygon file that tells the class.")
unlabelled_option = click.option(
    "--unlabelled", type=_choice(choices.Unlabelled), default="background", help="What lies outside every polygon."
)
chip_size_option = click.option("--chip-size", default=256, help="Rows and columns of a chip.")
split_option = click.option("--split", default="8:1:1", help="Shares of train, val and test.")
ONLY: dict[str, Any] = {
    "multiple": True, "callback": lambda ctx, option, values: ",".join(values) if values else None, "metavar": "TEXT",
}  # fmt: skip
OUTLINES = [
    click.option("--only", **ONLY, help="Classes, by name or value.  [default: all but the background]"),
    click.option("--simplify", default=1.5, help="Largest shift of an outline, in pixels."),
    click.option("--smooth", is_flag=True, help="Round the corners of outlines, by up to 1.5 pixels more."),
    click.option("--min-area", type=_Area(), default=0.0, help="Smallest polygon, by its pixels: m2, or as in 0.5ha; see --small."),
    click.option("--max-area", type=_Area(), help="The largest polygon, by its pixels, in m2; larger ones are left out."),
    click.option("--min-hole", type=_Area(), default=0.0, help="The smallest hole, by its pixels, in m2; smaller ones are filled."),
    click.option(
        "--small", type=_choice(choices.Small), default="merge",
        help="What becomes of small ones: part of the neighbour with the longest shared edge, or a gap.",
    ),
    click.option("--connectivity", type=_choice(choices.Connectivity), default=4, help="8 joins pixels that touch at corners."),
    click.option("--fields", is_flag=True, help="A polygon per field, also where they touch; needs a boundary class."),
    click.option("--min-seed", default=10, help="Pixels of the smallest interior that becomes a field."),
    click.option(
        "--growth", type=int,
        help="Pixels that fields grow into the boundary.  [default: 4; of predict, its width in training where that is more]",
    ),
]  # fmt: skip
CHIPS = [
    chip_size_option,
    click.option("--stride", type=int, help="Pixels from one chip to the next.  [default: chip size]"),
    bands_option,
    classes_option,
    class_field_option,
    click.option("--background", help="Name or value of the class that is not made into polygons."),
    click.option(
        "--other", type=_choice(choices.Other), default="error", help="What to do about values outside the legend."
    ),
    label_nodata_option,
    click.option("--all-touched", is_flag=True, help="Burn every pixel that a polygon touches."),
    unlabelled_option,
    click.option("--aoi", type=PATH, help="Polygons inside which the labels are complete; outside is ignored."),
    split_option,
    click.option(
        "--split-by", type=_choice(choices.SplitBy), default="block", help="What is kept together in one split."
    ),
    click.option("--block-size", type=AUTO_INT, default="auto", help="Chips per side of a block of ground."),
    click.option("--max-nodata", default=0.5, help="Largest share of nodata in a chip."),
    click.option("--min-label", default=0.0, help="Least share of labelled pixels in a chip."),
    click.option("--negatives", default=1.0, help="Share of background-only training chips that is kept."),
    click.option("--boundary", type=int, metavar="WIDTH", help="Pixels of the rim of each field that become a class."),
    click.option("--instances", is_flag=True, help="Each value of a mask raster is a field; 0 is background."),
]


def _all_of(options: Sequence[Any]) -> Callable[[Any], Any]:
    """A decorator that gives a command several options, in their order."""

    def decorate(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


chip_options, outline_options = _all_of(CHIPS), _all_of(OUTLINES)
precision_option = click.option("--precision", type=_choice(choices.Precision), default="auto", help="Of the network.")
device_option = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
threshold_option = click.option(
    "--threshold", type=float, help="Least probability of the second of two classes (bce).  [default: the model's]"
)
allow_remote_option = click.option(
    "--allow-remote", is_flag=True, help="A scene may be an address, such as https:// or s3://."
)
allow_vrt_option = click.option("--allow-vrt", is_flag=True, help="A scene may be a VRT, which names files of its own.")
datetime_option = click.option(
    "--datetime", help="When the scenes were taken, such as 2026-06-30 or 2026-05-01/2026-09-30; for catalogues."
)
seed_option = click.option("--seed", default=0, help="Of everything random.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace earlier outputs.")


@click.group(
    name="geoseg",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 110,
        "show_default": True,
    },
)
@click.version_option(geoseg.__version__, prog_name="geoseg")
def cli() -> None:
    """From GeoTIFF scenes and labels to cultivated-land polygons, with an honest accuracy report.

    \b
    geoseg tile scenes/ --labels labels.gpkg   cut scenes and labels into chips
    geoseg train                               learn from the chips
    geoseg predict scene.tif                   map a scene; open predictions/scene.qgz in QGIS
    geoseg evaluate                            how far to trust it
    """


@cli.command(cls=Verb)
@scenes_argument
@click.option("--labels", type=PATH, required=True, help="Mask raster, polygon file, or a folder of either.")
@click.option("-o", "--out", type=PATH, default="chips", help="Chip folder.")
@chip_options
@click.option("--scale", type=_choice(choices.Scaling), default="dataset", help="How bands are scaled.")
@stack_option
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@seed_option
@overwrite_option
def tile(scenes: tuple[str, ...], **options: Any) -> Any:
    """Cut scenes and labels into chips for training and testing."""
    return geoseg.tile(scenes, **options)


@cli.command(cls=Verb)
@click.argument("chips", metavar="[CHIPS=chips]", default="chips", type=PATH)
@click.option("-o", "--out", type=PATH, default="model", help="Model folder.")
@click.option("--recipe", default="default", callback=_list_recipes, help="A whole set-up; `list` prints them.")
@click.option("--arch", help="unet, fcn8s, ..., or any of segmentation-models-pytorch.")
@click.option("--width", type=int, help="Channels of the first stage of unet.")
@click.option("--encoder", help="Such as resnet34; not for unet.")
@click.option("--encoder-weights", metavar="none|imagenet|FILE", help="What the encoder begins with.")
@click.option("--freeze-encoder/--train-encoder", default=None, help="Leave the encoder as it is.")
@click.option("--padding", type=_choice(choices.Padding), help="At the borders of every convolution.")
@click.option("--dropout", type=float, help="Probability, 0 to 1.")
@click.option("--scale", type=_choice(choices.Scaling), help="How bands are scaled, if not as the chips say.")
@click.option("--loss", help="ce, bce, dice, jaccard, focal, lovasz, tversky, or a sum such as ce+dice.")
@click.option("--class-weights", metavar="none|auto|a,b,c", help="auto: rare classes count for more.")
@click.option("--optimizer", help="adamw, adam, or sgd:0.9 with its momentum.")
@click.option("--schedule", help="onecycle, cosine, poly, step:20:0.5 or constant; warmup:5+ goes before.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--weight-decay", type=float, help="Of the optimiser.")
@click.option("--epochs", type=int, help="Passes over the training chips.")
@click.option("--batch-size", type=_AutoInt("auto"), help="Chips a step; auto: what fits on a GPU.")
@click.option("--accumulate", type=int, help="Steps whose gradients are added up.")
@click.option("--augment", help="none, or a sum such as d4+photometric:0.1+scale:0.5-2.")
@click.option("--crop", type=int, help="Rows and columns cut at random from a chip; 0: all of it.")
@click.option("--sampling", type=_choice(choices.Sampling), help="balanced: chips with rare classes more often.")
@click.option("--ema", type=float, help="Decay of a moving average of the weights; 0: none.")
@click.option("--early-stop", type=int, help="Epochs without a better mean IoU until the end; 0: never.")
@click.option("--gradient-clip", type=float, help="Largest norm of the gradient; 0: none.")
@click.option("--save-every", type=int, help="Keep the weights of every so many epochs; 0: the best only.")
@click.option("--init", type=PATH, help="Model folder to start from.")
@click.option("--resume", is_flag=True, help="Go on with a run that was cut off.")
@click.option("--max-time", metavar="DD:HH:MM:SS", help="End after so long, with the best epoch till then.")
@precision_option
@device_option
@click.option("--devices", default=1, help="How many, each with a process of its own.")
@click.option("--workers", type=int, help="Processes that read chips.")
@click.option("--deterministic", is_flag=True, help="Only algorithms that give the same weights each time.")
@click.option("--logger", type=_choice(choices.Logger), default="csv", help="tensorboard: that too.")
@seed_option
@overwrite_option
def train(chips: str, **options: Any) -> Any:
    """Train a network on chips; options override the recipe."""
    return geoseg.train(chips, **options)


@cli.command(cls=Verb)
@scenes_argument
@model_option
@click.option("-o", "--out", type=PATH, default="predictions", help="Folder of the outputs.")
@bands_option
@click.option("--window", type=AUTO_INT, default="auto", help="Rows and columns that the network sees at once.")
@click.option("--margin", type=AUTO_INT, default="auto", help="Pixels on each side seen but not written.")
@click.option("--blend", type=_choice(choices.Blend), default="auto", help="hann: join windows softly across margins.")
@click.option(
    "--tta", type=_choice(choices.TestTimeAugmentation), default="none", help="Join mirrored, turned or shifted copies."
)
@click.option("--batch-size", type=AUTO_INT, default="auto", help="Windows a step.")
@precision_option
@device_option
@click.option(
    "--engine", type=_choice(choices.Engine), default="torch", help="openvino is faster on many CPUs (extra)."
)
@threshold_option
@click.option("--aoi", type=PATH, help="Polygons outside which nothing is told.")
@click.option("--confidence/--no-confidence", default=True, help="Write the probability of the class chosen.")
@click.option("--probabilities/--no-probabilities", default=False, help="Write the probability of every class.")
@click.option("--polygons/--no-polygons", default=True, help="Write polygons of the classes.")
@outline_options
@click.option("--check-seams", is_flag=True, help="Measure how windows disagree along their borders.")
@datetime_option
@click.option("--dask", metavar="ADDRESS", help="Scheduler of a Dask cluster that predicts (extra).")
@stack_option
@allow_remote_option
@allow_vrt_option
@click.option("--resume", is_flag=True, help="Go on where a run of this scene was stopped.")
@overwrite_option
def predict(scenes: tuple[str, ...], **options: Any) -> Any:
    """Map scenes: classes, confidence, polygons, a QGIS project."""
    return geoseg.predict(scenes, **options)


@cli.command(cls=Verb)
@click.argument("classes", type=PATH, metavar="CLASSES.tif")
@click.option("-o", "--out", type=PATH, required=True, help="Polygon file; its suffix tells the format.")
@outline_options
@click.option("--confidence", type=PATH, help="Confidence raster: a mean and a 5th percentile per polygon.")
@click.option("--format", type=_choice(choices.Format), help="Of the polygon file.  [default: by suffix]")
@overwrite_option
def polygonize(classes: str, **options: Any) -> Any:
    """Trace the polygons of a class raster, without gaps."""
    return geoseg.polygonize(classes, **options)


@cli.command(cls=Verb)
@click.argument("chips", metavar="[CHIPS=chips | PREDICTED REFERENCE]", default="chips", type=PATH)
@click.argument("reference", metavar="", required=False, type=PATH)
@model_option
@click.option("--split", type=_choice(choices.SplitName), default="test", help="Which chips.")
@click.option("-o", "--out", type=PATH, default="report", help="Folder of the report.")
@classes_option
@click.option("--only", **ONLY, help="Classes to tell apart, of a pair of maps; all others are one.  [default: all]")
@class_field_option
@unlabelled_option
@click.option("--aoi", type=PATH, help="Polygons; of a pair of maps, only what lies inside is counted.")
@click.option("--pixel-size", type=float, help="Metres, for a pair of polygon files.")
@label_nodata_option
@click.option("--boundary-tolerance", default="2", help="How far off a boundary may be: pixels, or metres such as 30m.")
@click.option("--iou-threshold", default=0.5, help="IoU above which two objects are one and the same.")
@click.option("--bootstrap", default=1000, help="Draws for the intervals.")
@click.option("--against", type=PATH, help="Another model, or map, to compare with on the same ground.")
@click.option("--robustness", is_flag=True, help="Also predict the chips shifted, resampled, hazier, noisier.")
@click.option("--batch-size", default=4, help="Chips a step.")
@precision_option
@device_option
@threshold_option
@seed_option
@overwrite_option
def evaluate(chips: str, reference: str | None, **options: Any) -> Any:
    """Score a model on chips, or a map against a reference."""
    return geoseg.evaluate(chips, reference, **options)


@cli.command(cls=Verb)
@click.argument("predicted", metavar="PREDICTED", type=PATH)
@click.option("-o", "--out", type=PATH, default="points.gpkg", help="GeoPackage of the points.")
@click.option("--size", type=int, help="Points in all.  [default: by Cochran's formula]")
@click.option("--standard-error", default=0.01, help="Aimed at for the overall accuracy.")
@click.option(
    "--expected-accuracy", default="0.8", help="Share of each class on the map guessed to be right: 0.8,water=0.95."
)
@click.option("--minimum", default=50, help="Points of each class.")
@click.option("--aoi", type=PATH, help="Polygons inside which points are drawn.")
@seed_option
@overwrite_option
def sample(predicted: str, **options: Any) -> Any:
    """Draw points on a map, to be labelled for its areas and accuracy."""
    return geoseg.sample(predicted, **options)


@cli.command(cls=Verb)
@scenes_argument
@model_option
@click.option("-o", "--out", type=PATH, default="suggest.gpkg", help="GeoPackage of the windows.")
@click.option("--count", default=20, help="Windows to suggest.")
@click.option("--window", type=int, help="Rows and columns of a window.  [default: those of the model's chips]")
@click.option("--labelled", type=PATH, help="Chip folder, or polygons, of ground that is labelled already.")
@bands_option
@click.option("--batch-size", default=8, help="Windows a step.")
@precision_option
@device_option
@stack_option
@overwrite_option
def suggest(scenes: tuple[str, ...], **options: Any) -> Any:
    """Say which windows of scenes to label next."""
    return geoseg.suggest(scenes, **options)


@cli.command(cls=Verb)
@model_option
@click.option("-o", "--out", type=PATH, required=True, help="The file; its suffix, .onnx or .xml, tells the format.")
@click.option("--format", type=_choice(choices.ExportFormat), help="Of the file.  [default: by suffix]")
@click.option("--for", "for_", type=_choice(choices.Program), help="A program that wants it its own way.")
@click.option("--tile-size", default=512, help="Rows and columns of a window.")
@overwrite_option
def export(**options: Any) -> Any:
    """Write a model's network for other programs."""
    return geoseg.export(**options)


@cli.command(cls=Verb)
@model_option
@click.option("-o", "--out", type=PATH, default="card", help="Folder of the card and the item.")
@click.option("--report", type=PATH, help="Folder of geoseg evaluate, whose scores go into the card.")
@datetime_option
@overwrite_option
def card(progress: Any, **options: Any) -> Any:
    """Write a model card and a STAC item of a model."""
    return geoseg.card(**options)


@cli.command(cls=Verb)
@click.argument("path", type=PATH)
def info(path: str, progress: Any) -> Any:
    """Describe a scene, labels, chips, a model or a map."""
    return geoseg.info(path)


@cli.command(cls=Verb)
@scenes_argument
@click.option("--labels", type=PATH, help="As for tile; they are read through.")
@click.option("-m", "--model", type=PATH, help="As for predict.")
@chip_options
@stack_option
@allow_remote_option
@allow_vrt_option
@seed_option
def check(scenes: tuple[str, ...], **options: Any) -> Any:
    """Find every fault that tile (--labels) or predict (-m) would."""
    return geoseg.check(scenes, **options)


def main() -> None:
    """Run the command line; exit 0, 1 (input or environment), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    listen()
    cli(prog_name="geoseg")
