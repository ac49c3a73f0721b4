"""One algorithm per command: its parameters are those of the command line, its outputs are loaded as they are styled."""

import json
from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig
from qgis.core import (
    QgsMapLayer,
    QgsProcessing,
    QgsProcessingAlgorithm,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingLayerPostProcessorInterface,
    QgsProcessingOutputFile,
    QgsProcessingOutputRasterLayer,
    QgsProcessingOutputVectorLayer,
    QgsProcessingParameterBoolean,
    QgsProcessingParameterDefinition,
    QgsProcessingParameterEnum,
    QgsProcessingParameterFile,
    QgsProcessingParameterFileDestination,
    QgsProcessingParameterFolderDestination,
    QgsProcessingParameterMapLayer,
    QgsProcessingParameterMultipleLayers,
    QgsProcessingParameterNumber,
    QgsProcessingParameterRasterLayer,
    QgsProcessingParameterString,
    QgsProcessingParameterVectorLayer,
    QgsProcessingUtils,
)  # fmt: skip
from qgis.PyQt.QtGui import QIcon

from .command_line import GeosegRunError, MissingGeosegError, arguments, find_executable, run

EXECUTABLE = "GEOSEG_EXECUTABLE"
"""The setting that names the executable."""

_TITLES = {
    "tile": "1. Cut scenes and labels into chips", "train": "2. Train a network on chips", "predict": "3. Map scenes",
    "polygonize": "4. Trace the polygons of a class raster", "evaluate": "5. Score a model or a map",
    "sample": "Draw points to label, for areas with an interval", "suggest": "Say where to label next",
}  # fmt: skip
_FIRST = {
    "tile": ("scenes", "labels", "out", "class_field", "classes", "aoi", "overwrite"),
    "train": ("chips", "out", "recipe", "epochs", "init", "resume", "overwrite"),
    "predict": ("scenes", "model", "out", "aoi", "overwrite"),
    "polygonize": ("classes", "out", "simplify", "min_area", "overwrite"),
    "evaluate": ("chips", "model", "predicted", "reference", "out", "class_field", "aoi", "overwrite"),
    "sample": ("predicted", "out", "size", "aoi", "overwrite"),
    "suggest": ("scenes", "model", "out", "count", "labelled", "overwrite"),
}
"""What a dialog shows; the rest lies under Advanced."""

_KINDS = {
    "scenes": "rasters", "labels": "layer", "aoi": "polygons", "chips": "folder", "model": "folder", "init": "folder",
    "confidence": "raster", "predicted": "layer", "reference": "layer", "against": "text", "labelled": "text",
}  # fmt: skip
"""What a path leads to."""

_OUTPUTS = {
    "polygonize": "GeoPackage (*.gpkg);;FlatGeobuf (*.fgb);;GeoJSON (*.geojson);;GeoParquet (*.parquet)",
    "sample": "GeoPackage (*.gpkg)", "suggest": "GeoPackage (*.gpkg)",
}  # fmt: skip
"""Commands that write one file, and in what formats; the others write a folder."""

_LEFT_OUT = {"polygonize": {"format"}}
"""Options that a dialog asks for by another: the suffix of the file tells its format."""

_FOLDERS = {"labels"}
"""Layers in whose place a folder of files may be named, in a script or in the field of the dialog."""

_LAYERS = {
    "polygonize": ("polygons",), "sample": ("points",), "suggest": ("suggest",),
}  # fmt: skip


class GeosegAlgorithm(QgsProcessingAlgorithm):
    """A command of geoseg.

    Args:
        name: of the command.
        command: its help and parameters, as in commands.json.
    """

    def __init__(self, name, command):
        super().__init__()
        self._name, self._command = name, command

    def createInstance(self):  # noqa: N802
        return GeosegAlgorithm(self._name, self._command)

    def name(self):
        return self._name

    def displayName(self):  # noqa: N802
        return _TITLES[self._name]

    def shortHelpString(self):  # noqa: N802
        return f"{self._command['help']}\n\nRuns: geoseg {self._name}. Warnings and the result stand in the log."

    def icon(self):
        return QIcon(str(Path(__file__).parent / "icon.svg"))

    def initAlgorithm(self, configuration=None):  # noqa: N802
        params = {param["name"]: param for param in self._params()}
        first = [name for name in _FIRST[self._name] if name in params]
        for name in [*first, *(name for name in params if name not in first)]:
            definition = self._definition(params[name])
            if name not in first:
                definition.setFlags(definition.flags() | QgsProcessingParameterDefinition.FlagAdvanced)
            definition.setHelp(params[name].get("help") or "")
            self.addParameter(definition)
        if self._name == "predict":
            for name in ("CLASSES", "CONFIDENCE"):
                self.addOutput(QgsProcessingOutputRasterLayer(name, f"{name.capitalize()} of the first scene"))
            self.addOutput(QgsProcessingOutputVectorLayer("POLYGONS", "Polygons of the first scene"))
        if self._name == "evaluate":
            self.addOutput(QgsProcessingOutputFile("REPORT", "Report"))

    def _params(self):
        """Those of the command; a map to score has a place of its own."""
        params = [param for param in self._command["params"] if param["name"] not in _LEFT_OUT.get(self._name, ())]
        if self._name == "evaluate":
            told = {"help": "A map to score, with a reference; without, a model on chips."}
            params = [*params, {"name": "predicted", "type": "path", "required": False, "default": None, **told}]
        return params

    def _definition(self, param):
        """The parameter of Processing for one of the command's."""
        name, kind, default = param["name"], param["type"], param["default"]
        key, label = name.upper(), _label(param)
        optional = not param["required"] and (default is None or self._name == "evaluate")  # no folder is there unasked
        if name == "out":
            if self._name in _OUTPUTS:
                return QgsProcessingParameterFileDestination(key, label, _OUTPUTS[self._name])
            return QgsProcessingParameterFolderDestination(key, label)
        if kind == "flag" and default is None:  # neither one nor the other unless it is chosen
            return QgsProcessingParameterEnum(key, label, ["yes", "no"], optional=True, usesStaticStrings=True)
        if kind == "flag":
            return QgsProcessingParameterBoolean(key, label, bool(default))
        if kind == "choice":
            return QgsProcessingParameterEnum(
                key, label, param["choices"], defaultValue=None if default is None else str(default), optional=default is None,
                usesStaticStrings=True,
            )  # fmt: skip
        if kind in ("int", "float"):
            number = QgsProcessingParameterNumber.Integer if kind == "int" else QgsProcessingParameterNumber.Double
            return QgsProcessingParameterNumber(key, label, number, default, optional=default is None)
        if kind == "path":
            return self._path(key, label, _KINDS.get(name, "raster"), optional)
        return QgsProcessingParameterString(key, label, default, optional=True)

    @staticmethod
    def _path(key, label, what, optional):
        if what == "rasters":
            return QgsProcessingParameterMultipleLayers(key, label, QgsProcessing.TypeRaster)
        if what == "raster":
            return QgsProcessingParameterRasterLayer(key, label, optional=optional)
        if what == "polygons":
            return QgsProcessingParameterVectorLayer(key, label, [QgsProcessing.TypeVectorPolygon], optional=optional)
        if what == "layer":
            return QgsProcessingParameterMapLayer(
                key, label, optional=optional, types=[QgsProcessing.TypeRaster, QgsProcessing.TypeVector]
            )
        if what == "folder":
            return QgsProcessingParameterFile(key, label, QgsProcessingParameterFile.Folder, optional=optional)
        return QgsProcessingParameterString(key, label, None, optional=True)

    # --- running

    def processAlgorithm(self, parameters, context, feedback):  # noqa: N802
        values = {param["name"]: self._value(param, parameters, context, feedback) for param in self._params()}
        self._lay_out(values)
        try:
            words = [find_executable(ProcessingConfig.getSetting(EXECUTABLE) or ""), self._name]
            words += arguments(self._command, values)
            feedback.pushCommandInfo(" ".join(words))
            result = run(
                words, progress=_Stages(feedback), say=_said(feedback), cancelled=feedback.isCanceled,
            )  # fmt: skip
        except (MissingGeosegError, GeosegRunError) as error:
            raise QgsProcessingException(str(error)) from None
        feedback.pushInfo(result)
        if feedback.isCanceled():
            return {}
        return self._results(Path(values["out"]), values, context)

    def _value(self, param, parameters, context, feedback):
        name, kind, key = param["name"], param["type"], param["name"].upper()
        if name == "out":
            return self.parameterAsString(parameters, key, context)
        if parameters.get(key) is None and kind != "flag":
            return None
        if kind == "flag" and param["default"] is None:
            return {"yes": True, "no": False}.get(self.parameterAsEnumString(parameters, key, context))
        if kind == "flag":
            return self.parameterAsBool(parameters, key, context)
        if kind == "choice":
            return self.parameterAsEnumString(parameters, key, context)
        if kind == "int":
            return self.parameterAsInt(parameters, key, context)
        if kind == "float":
            return self.parameterAsDouble(parameters, key, context)
        what = _KINDS.get(name, "raster") if kind == "path" else "text"
        if what == "rasters":
            return [_file_of(layer) for layer in self.parameterAsLayerList(parameters, key, context)]
        if what in ("raster", "layer", "polygons"):
            layer = self.parameterAsLayer(parameters, key, context)
            if layer is None and name in _FOLDERS and Path(str(parameters[key])).is_dir():
                return str(parameters[key])
            if layer is None:
                raise QgsProcessingException(f"{key}: {parameters[key]} cannot be opened as a layer")
            if layer.type() == QgsMapLayer.VectorLayer:  # filters, edits and layers in memory are written down first
                return self.parameterAsCompatibleSourceLayerPath(
                    parameters, key, context, ["gpkg", "geojson", "fgb", "shp"], "gpkg", feedback
                )
            return _file_of(layer)
        return self.parameterAsString(parameters, key, context)

    def _lay_out(self, values):
        """Bring what the dialog asks for apart into the places of the command line."""
        if values.get("stack"):  # layers are files, and a stack is the folder of its files
            values["scenes"] = list(dict.fromkeys(str(Path(file).parent) for file in values["scenes"]))
        if self._name != "evaluate":
            return
        predicted, reference = values.pop("predicted"), values["reference"]
        if (predicted is None) != (reference is None):
            raise QgsProcessingException("A map and a reference go together: give both, or neither and a chip folder")
        if predicted is not None and (values["chips"] or values["model"]):
            raise QgsProcessingException("Either a map and a reference, or a chip folder and a model: leave two empty")
        if predicted is not None:
            values["chips"] = predicted
        elif values["chips"] is None:
            raise QgsProcessingException("Nothing to score: give a chip folder and a model, or a map and a reference")

    def _results(self, out, values, context):
        results = {"OUT": str(out)}
        if self._name == "evaluate":
            results["REPORT"] = str(out / "report.html")
        for path, layer in self._made(out, values, results):
            source = f"{path}|layername={layer}" if layer else str(path)
            if QgsProcessingUtils.mapLayerFromString(source, context) is not None:
                details = QgsProcessingContext.LayerDetails(path.stem, context.project(), path.stem)
                styled = _Styled()
                _KEPT.append(styled)
                details.setPostProcessor(styled)
                context.addLayerToLoadOnCompletion(source, details)
        return results

    def _made(self, out, values, results):
        """The files to show, from the bottom up, each with its layer."""
        if self._name in _OUTPUTS:
            return [(out, layer) for layer in _LAYERS[self._name]]
        if self._name != "predict":
            return []
        shown = []
        for scene in values["scenes"]:
            name = Path(scene).resolve().name if values.get("stack") else Path(scene).stem  # a stack is a folder
            run_file = out / f"{name}_run.json"
            names = json.loads(run_file.read_text(encoding="utf-8"))["outputs"]
            for kind, ending in (
                ("CONFIDENCE", "_confidence.tif"),
                ("CLASSES", "_classes.tif"),
                ("POLYGONS", "_polygons.gpkg"),
            ):
                for name in names:
                    if name.endswith(ending):
                        shown.append((out / name, "polygons" if kind == "POLYGONS" else None))
                        results.setdefault(kind, str(out / name))
        return shown


class _Styled(QgsProcessingLayerPostProcessorInterface):
    """Gives a layer the style that lies in its file or beside it, which Processing leaves alone."""

    def postProcessLayer(self, layer, context, feedback):  # noqa: N802
        layer.loadDefaultStyle()
        layer.triggerRepaint()


_KEPT = []
"""Those given away: the context of a run deletes each, but does not keep its Python half alive until then."""


def _label(param):
    text = (param.get("help") or param["name"].capitalize()).split("  [default")[0].rstrip(".")
    return f"{text} [{param['flag']}]" if "flag" in param else text


def _file_of(layer):
    """The file of a raster layer, or of a whole vector file, whose layer stands behind a bar."""
    return layer.source().split("|")[0] if layer.type() == QgsMapLayer.VectorLayer else layer.source()


class _Stages:
    """Puts stages and their percents into a dialog."""

    def __init__(self, feedback):
        self._feedback, self._stage = feedback, ""

    def __call__(self, stage, percent):
        if stage != self._stage:
            self._stage = stage
            self._feedback.setProgressText(stage)
        self._feedback.setProgress(percent)


def _said(feedback):
    return lambda line: (feedback.pushWarning if line.startswith("Warning") else feedback.pushInfo)(line)
