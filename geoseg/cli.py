"""The command line: each command is one call of the function of the same name."""

from __future__ import annotations

import json
import logging
import signal
import sys
import tomllib
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import click

import geoseg
from geoseg.choices import Augment, Other, Padding, Precision, Scaling, SplitBy, SplitName, Unlabelled
from geoseg.errors import GeosegError, GeosegWarning, PreflightError


class Verb(click.Command):
    """A command with the options that all commands share.

    It shows progress, warnings and errors on stderr and the result on stdout, and turns errors into one line each.
    """

    shared = ("quiet", "verbose", "debug", "strict", "as_json", "config")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params += [
            click.Option(["-q", "--quiet"], is_flag=True, help="Show no progress."),
            click.Option(["-v", "--verbose"], is_flag=True, help="Show what the libraries underneath have to say."),
            click.Option(["--debug"], is_flag=True, help="Show the traceback of an error."),
            click.Option(["--strict"], is_flag=True, help="Treat warnings as errors."),
            click.Option(["as_json", "--json"], is_flag=True, help="Print the result as JSON."),
            click.Option(
                ["--config"],
                type=click.Path(exists=True, dir_okay=False),
                is_eager=True,
                callback=_load_config,
                help="TOML file with a table of options per command.",
            ),
        ]

    def invoke(self, ctx: click.Context) -> None:
        shared = {name: ctx.params.pop(name) for name in self.shared}
        with (
            _one_line_errors(shared["debug"]),
            _shown(shared["quiet"], shared["verbose"], shared["strict"]) as progress,
        ):
            if self.name != "info":
                ctx.params["progress"] = progress
            results = super().invoke(ctx)
        listed = results if isinstance(results, list) else [results]
        if shared["as_json"]:
            documents = [result.to_dict() for result in listed]
            click.echo(json.dumps(documents if isinstance(results, list) else documents[0], ensure_ascii=False))
        else:
            for result in listed:
                click.echo(str(result))


def _load_config(ctx: click.Context, param: click.Parameter, path: str | None) -> str | None:
    if path is None:
        return None
    with open(path, "rb") as file:
        try:
            tables = tomllib.load(file)
        except tomllib.TOMLDecodeError as error:
            raise click.BadParameter(f"{path}: not TOML ({error})") from None
    options = {name.replace("-", "_"): value for name, value in tables.get(str(ctx.command.name), {}).items()}
    unknown = sorted(set(options) - {param.name for param in ctx.command.params})
    if unknown:
        raise click.BadParameter(f"{path}: {ctx.command.name} has no option {', '.join(unknown)}")
    ctx.default_map = {**(ctx.default_map or {}), **options}
    return path


@contextmanager
def _one_line_errors(debug: bool) -> Iterator[None]:
    """Say an error in one line each; a traceback only for those who ask."""
    try:
        yield
    except (GeosegError, GeosegWarning) as error:
        if debug:
            traceback.print_exc()
        several = len(error.faults) if isinstance(error, PreflightError) else 1
        message = f"{several} faults, nothing was done\n{error}" if several > 1 else str(error)
        raise click.ClickException(message) from error
    except (click.ClickException, click.exceptions.Exit, click.Abort):
        raise
    except Exception as error:
        # The last resort of a command line: whatever was not foreseen still ends in a line, not in a traceback.
        if debug:
            traceback.print_exc()
        told = str(error).splitlines()[0] if str(error) else ""
        raise click.ClickException(
            f"unforeseen {type(error).__name__}: {told}; run again with --debug and report it"
        ) from error


@contextmanager
def _shown(quiet: bool, verbose: bool, strict: bool) -> Iterator[Callable[..., None]]:
    """Show warnings, log lines and a progress bar on stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    root, own = logging.getLogger(), logging.getLogger("geoseg")
    before = (root.level, own.level, root.handlers[:])
    root.handlers = [handler]
    root.setLevel(logging.INFO if verbose else logging.CRITICAL)
    own.setLevel(logging.WARNING if quiet else logging.INFO)
    bar = _Bar(quiet)
    with warnings.catch_warnings():
        warnings.simplefilter("default" if verbose else "ignore")
        warnings.simplefilter("error" if strict else "default", GeosegWarning)
        warnings.showwarning = lambda message, *_: bar.write(f"Warning: {message}")
        try:
            yield bar
        finally:
            bar.close()
            root.handlers = before[2]
            root.setLevel(before[0])
            own.setLevel(before[1])


class _Bar:
    """A progress bar per stage, with the time that is left."""

    def __init__(self, quiet: bool) -> None:
        self._quiet, self._stage = quiet, ""
        self._bar: Any = None

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        from tqdm import tqdm

        if self._bar is None or stage != self._stage:
            self.close()
            # A bar that is not on a terminal, but in a log, says something twice a minute.
            interval = 0.1 if sys.stderr.isatty() else 30
            self._stage, self._bar = stage, tqdm(total=total, desc=stage, disable=self._quiet, mininterval=interval)
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def write(self, line: str) -> None:
        """A line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        click.echo(line, err=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _list_recipes(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if name == "list":
        from geoseg.recipe import recipe_names

        click.echo("\n".join(recipe_names()))
        ctx.exit()
    return name


class _AutoInt(click.ParamType):
    """A whole number, or `auto`, which the function is given as None."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        return None if value == "auto" else click.INT.convert(value, param, ctx)


def _choice(words: Any) -> click.Choice:
    return click.Choice([str(word) for word in get_args(words)])


scenes_argument = click.argument("scenes", metavar="SCENE...", nargs=-1, required=True, type=click.Path())
seed_option = click.option("--seed", default=0, show_default=True, help="Of everything random.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace earlier outputs.")
stack_option = click.option("--stack", is_flag=True, help="Each SCENE is a folder of single-band files.")
bands_option = click.option("--bands", help="Numbers or names, such as 4,3,2.")
device_option = click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
precision_option = click.option(
    "--precision", type=_choice(Precision), default="auto", show_default=True, help="Of the network."
)
model_option = click.option(
    "-m", "--model", type=click.Path(), default="model", show_default=True, help="Model folder."
)
classes_option = click.option(
    "--classes", metavar="SPEC|FILE", help="0=background,1=cultivated:#e5b52a, or a CSV or JSON file."
)
class_field_option = click.option(
    "--class-field", metavar="NAME", help="Column of a polygon file that tells the class."
)
unlabelled_option = click.option(
    "--unlabelled",
    type=_choice(Unlabelled),
    default="background",
    show_default=True,
    help="What lies outside every polygon.",
)


def out_option(default: str, what: str) -> Callable[..., Any]:
    """The option -o/--out."""
    return click.option("-o", "--out", type=click.Path(), default=default, show_default=True, help=what)


@click.group(
    name="geoseg",
    context_settings={
        "help_option_names": ["-h", "--help"],
        "token_normalize_func": lambda token: token.replace("_", "-"),
        "max_content_width": 110,
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
@click.option("--labels", type=click.Path(), required=True, help="Mask raster, polygon file, or a folder of either.")
@out_option("chips", "Chip folder.")
@click.option("--chip-size", default=256, show_default=True, help="Rows and columns of a chip.")
@click.option("--stride", type=int, help="Pixels from one chip to the next.  [default: chip size]")
@bands_option
@classes_option
@class_field_option
@click.option("--background", metavar="NAME", help="The class that is not made into polygons.")
@click.option(
    "--other", type=_choice(Other), default="error", show_default=True, help="Label values outside the legend."
)
@click.option("--label-nodata", type=int, help="A label value that means unknown.")
@click.option("--all-touched", is_flag=True, help="Burn every pixel that a polygon touches.")
@unlabelled_option
@click.option("--aoi", type=click.Path(), help="Polygons inside which the labels are complete; outside is ignored.")
@click.option("--split", default="8:1:1", show_default=True, help="Shares of train, val and test.")
@click.option("--split-by", type=_choice(SplitBy), default="block", show_default=True, help="What is kept together.")
@click.option("--block-size", metavar="auto|N", type=_AutoInt(), help="Chips per side of a block.  [default: auto]")
@click.option("--max-nodata", default=0.5, show_default=True, help="Largest share of nodata in a chip.")
@click.option("--min-label", default=0.0, show_default=True, help="Least share of labelled pixels in a chip.")
@click.option("--negatives", default=1.0, show_default=True, help="Share of background-only training chips kept.")
@click.option("--scale", type=_choice(Scaling), default="dataset", show_default=True, help="How bands are scaled.")
@stack_option
@click.option("--dry-run", is_flag=True, help="Only say what would be written.")
@seed_option
@overwrite_option
def tile(scenes: tuple[str, ...], **options: Any) -> Any:
    """Cut scenes and labels into chips with masks, split for training, validation and test."""
    return geoseg.tile(scenes, **options)


@cli.command(cls=Verb)
@click.argument("chips", type=click.Path(), default="chips", metavar="[CHIPS=chips]")
@out_option("model", "Model folder.")
@click.option(
    "--recipe",
    default="default",
    show_default=True,
    is_eager=True,
    callback=_list_recipes,
    help="A whole set-up; `list` prints them.",
)
@click.option("--arch", help="unet, or any of segmentation-models-pytorch.")
@click.option("--width", type=int, help="Channels of the first stage of unet.")
@click.option("--encoder", help="Such as resnet34; not for unet.")
@click.option("--encoder-weights", metavar="none|imagenet|PATH", help="What the encoder starts from.  [default: none]")
@click.option("--padding", type=_choice(Padding), help="At the borders of every convolution.")
@click.option("--dropout", type=float, help="Probability, 0 to 1.")
@click.option("--loss", help="ce, dice, or a sum such as ce+dice.")
@click.option("--lr", type=float, help="Highest learning rate.")
@click.option("--weight-decay", type=float, help="Of the optimiser.")
@click.option("--epochs", type=int, help="Passes over the training chips.")
@click.option("--batch-size", type=int, help="Chips a step.")
@click.option("--augment", type=_choice(Augment), help="Chips are flipped, or flipped and turned (d4).")
@precision_option
@device_option
@click.option("--workers", type=int, help="Processes that read chips.")
@click.option("--deterministic", is_flag=True, help="Only algorithms that give the same weights each time.")
@seed_option
@overwrite_option
def train(chips: str, **options: Any) -> Any:
    """Train a network on chips; options override the recipe."""
    return geoseg.train(chips, **options)


@cli.command(cls=Verb)
@scenes_argument
@model_option
@out_option("predictions", "Folder of the outputs.")
@bands_option
@click.option("--window", type=_AutoInt(), help="Rows and columns that the network sees at once.  [default: auto]")
@click.option("--margin", type=_AutoInt(), help="Pixels on each side seen but not written.  [default: auto]")
@click.option("--batch-size", default=2, show_default=True, help="Windows a step.")
@precision_option
@device_option
@click.option("--confidence/--no-confidence", default=True, show_default=True, help="Probability of the class chosen.")
@click.option(
    "--probabilities/--no-probabilities", default=False, show_default=True, help="Probability of every class."
)
@click.option("--polygons/--no-polygons", default=True, show_default=True, help="Polygons of the classes.")
@click.option("--only", help="Classes to make polygons of, by name or value.  [default: all but the background]")
@click.option("--simplify", default=1.5, show_default=True, help="Largest shift of an outline, in pixels.")
@click.option("--connectivity", type=click.Choice([4, 8]), default=4, show_default=True, help="Of polygons.")
@stack_option
@overwrite_option
def predict(scenes: tuple[str, ...], **options: Any) -> Any:
    """Map scenes: class raster, confidence, polygons and a QGIS project."""
    return geoseg.predict(scenes, **options)


@cli.command(cls=Verb)
@click.argument("classes", type=click.Path(), metavar="CLASSES.tif")
@click.option("-o", "--out", type=click.Path(), required=True, help="Polygon file; its suffix tells the format.")
@click.option("--only", help="Classes, by name or value.  [default: all but the background]")
@click.option("--simplify", default=1.5, show_default=True, help="Largest shift of an outline, in pixels.")
@click.option("--connectivity", type=click.Choice([4, 8]), default=4, show_default=True, help="Of polygons.")
@click.option("--confidence", type=click.Path(), help="Confidence raster, for a mean per polygon.")
@click.option("--format", help="gpkg, fgb, geojson or parquet.  [default: by suffix]")
@overwrite_option
def polygonize(classes: str, **options: Any) -> Any:
    """Trace the polygons of a class raster, without gaps or overlaps."""
    return geoseg.polygonize(classes, **options)


@cli.command(cls=Verb)
@click.argument("chips", type=click.Path(), default="chips", metavar="[CHIPS=chips | PREDICTED REFERENCE]")
@click.argument("reference", type=click.Path(), required=False, metavar="")
@model_option
@click.option("--split", type=_choice(SplitName), default="test", show_default=True, help="Which chips.")
@out_option("report", "Folder of the report.")
@classes_option
@class_field_option
@unlabelled_option
@click.option("--bootstrap", default=1000, show_default=True, help="Draws for the intervals.")
@click.option("--batch-size", default=4, show_default=True, help="Chips a step.")
@precision_option
@device_option
@seed_option
@overwrite_option
def evaluate(chips: str, reference: str | None, **options: Any) -> Any:
    """Score a model on its test chips, or a class raster against a reference."""
    return geoseg.evaluate(chips, reference, **options)


@cli.command(cls=Verb)
@click.argument("path", type=click.Path())
def info(path: str) -> Any:
    """Describe a scene, a chip folder, a model or a prediction."""
    return geoseg.info(path)


@cli.command(cls=Verb)
@scenes_argument
@click.option("--labels", type=click.Path(), help="As for tile; they are read through.")
@click.option("-m", "--model", type=click.Path(), help="As for predict.")
@click.option("--chip-size", default=256, show_default=True, help="Rows and columns of a chip.")
@bands_option
@classes_option
@class_field_option
@click.option("--split", default="8:1:1", show_default=True, help="Shares of train, val and test.")
@stack_option
def check(scenes: tuple[str, ...], **options: Any) -> Any:
    """Do every check of tile (with --labels) and predict (with -m), and nothing else: all faults at once."""
    return geoseg.check(scenes, **options)


def _terminate(number: int, frame: Any) -> None:
    sys.exit(128 + number)


def main() -> None:
    """Run the command line; exit 0, 1 (input or environment), 2 (usage), 130 (Ctrl-C) or 143 (SIGTERM)."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped.", err=True)
        sys.exit(130)
