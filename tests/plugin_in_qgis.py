"""Run every algorithm of the plugin in QGIS, without windows; run by tests/test_qgis_plugin.py with the Python of QGIS.

    plugin_in_qgis.py PLUGIN_FOLDER FARM OUT EXECUTABLE [PICTURE]

Prints JSON: the results of each algorithm, the layers that it loads with their renderers, and how a cancelled run ended. With
PICTURE, the dialog of `geoseg:predict` is drawn there.
"""

import json
import sys
import threading
import time
from pathlib import Path

folder, farm, out, executable, *picture = sys.argv[1:]
sys.path[:0] = [str(Path(folder).parent), "/usr/share/qgis/python/plugins"]

from qgis.core import (  # noqa: E402
    QgsApplication,
    QgsProcessingContext,
    QgsProcessingException,
    QgsProcessingFeedback,
    QgsProcessingUtils,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)  # fmt: skip

application = QgsApplication([], bool(picture))
application.initQgis()
from geoseg_processing.algorithm import EXECUTABLE  # noqa: E402
from geoseg_processing.plugin import GeosegPlugin  # noqa: E402
from processing.core.Processing import Processing  # noqa: E402
from processing.core.ProcessingConfig import ProcessingConfig  # noqa: E402

Processing.initialize()
plugin = GeosegPlugin()
plugin.initProcessing()
farm, out = Path(farm), Path(out)


class Feedback(QgsProcessingFeedback):
    """Keeps what it is told."""

    def __init__(self):
        super().__init__(False)
        self.lines, self.percents = [], []
        self.progressChanged.connect(self.percents.append)

    def pushInfo(self, line):  # noqa: N802
        self.lines.append(line)

    def pushWarning(self, line):  # noqa: N802
        self.lines.append(line)


def run(name, cancel_after=None, **parameters):
    """Run an algorithm as the toolbox does."""
    ProcessingConfig.setSettingValue(EXECUTABLE, executable)
    context, feedback = QgsProcessingContext(), Feedback()
    context.setProject(QgsProject.instance())
    algorithm = QgsApplication.processingRegistry().algorithmById(f"geoseg:{name}").create()
    if cancel_after is not None:
        threading.Timer(cancel_after, feedback.cancel).start()
    began = time.monotonic()
    try:
        results, _ = algorithm.run(parameters, context, feedback, {}, False)
    except QgsProcessingException as error:
        return {"error": str(error)}
    loaded = {}
    for source, details in context.layersToLoadOnCompletion().items():
        layer = QgsProcessingUtils.mapLayerFromString(source, context)
        details.postProcessor().postProcessLayer(layer, context, feedback)
        loaded[details.name] = [layer.renderer().type(), layer.isValid()]
    told = {"results": results, "loaded": loaded, "percents": feedback.percents, "lines": feedback.lines}
    return told | {"seconds": time.monotonic() - began}


scene, labels = QgsRasterLayer(str(farm / "scene.tif"), "scene"), QgsRasterLayer(str(farm / "labels.tif"), "labels")
square = QgsVectorLayer("Polygon?crs=EPSG:32614", "area", "memory")
from qgis.core import QgsFeature, QgsGeometry  # noqa: E402

feature = QgsFeature()
feature.setGeometry(
    QgsGeometry.fromWkt("POLYGON((500000 4498400, 501600 4498400, 501600 4500000, 500000 4500000, 500000 4498400))")
)
square.dataProvider().addFeatures([feature])
QgsProject.instance().addMapLayers([scene, labels, square])
chips, model, classes = out / "chips", out / "model", out / "map" / "scene_classes.tif"
found = {
    "tile": run(
        "tile", SCENES=[scene.id()], LABELS=labels.id(), OUT=str(chips), CHIP_SIZE=32, BLOCK_SIZE="1", AOI=square.id()
    ),
    "train": run(
        "train", CHIPS=str(chips), OUT=str(model), WIDTH=2, EPOCHS=2, WORKERS=0, DETERMINISTIC=True, AUGMENT="none"
    ),
    "predict": run("predict", SCENES=[scene.id()], MODEL=str(farm / "model"), OUT=str(out / "map"), PRECISION="fp32"),
    "polygonize": run("polygonize", CLASSES=str(classes), OUT=str(out / "fields.gpkg"), SMALL="drop", MIN_AREA=500),
    "evaluate map": run(
        "evaluate", PREDICTED=str(classes), REFERENCE=labels.id(), OUT=str(out / "report"), BOOTSTRAP=20
    ),
    "evaluate chips": run("evaluate", CHIPS=str(chips), MODEL=str(model), OUT=str(out / "report2"), BOOTSTRAP=20),
    "sample": run("sample", PREDICTED=str(classes), OUT=str(out / "points.gpkg"), SIZE=60, MINIMUM=10),
    "suggest": run(
        "suggest", SCENES=[scene.id()], MODEL=str(farm / "model"), OUT=str(out / "suggest.gpkg"), WINDOW=32, COUNT=5
    ),
    "folders": run(
        "tile",
        SCENES=[str(farm / "stack" / name) for name in ("B1.tif", "B2.tif")],
        LABELS=str(farm / "stack_labels"),
        OUT=str(out / "chips2"),
        STACK=True,
        CHIP_SIZE=32,
        BLOCK_SIZE="1",
        SPLIT_BY="random",
    ),
    "geojson": run("polygonize", CLASSES=str(classes), OUT=str(out / "fields.geojson")),
    "both": run(
        "evaluate",
        PREDICTED=str(classes),
        REFERENCE=labels.id(),
        CHIPS=str(chips),
        MODEL=str(model),
        OUT=str(out / "r4"),
    ),
    "again": run("predict", SCENES=[scene.id()], MODEL=str(farm / "model"), OUT=str(out / "map")),
    "no model": run("predict", SCENES=[scene.id()], MODEL=str(out), OUT=str(out / "none")),
    "half a pair": run("evaluate", PREDICTED=str(classes), OUT=str(out / "report3")),
    "cancelled": run("train", cancel_after=6, CHIPS=str(chips), OUT=str(out / "long"), WIDTH=8, EPOCHS=2000, WORKERS=0),
}
good, executable = executable, str(farm / "scene.tif")
found["not geoseg"] = run("tile", SCENES=[scene.id()], LABELS=labels.id(), OUT=str(out / "none"))
executable = good
if picture:
    from processing.gui.AlgorithmDialog import AlgorithmDialog

    dialog = AlgorithmDialog(QgsApplication.processingRegistry().algorithmById("geoseg:predict").create())
    dialog.resize(900, 620)
    dialog.show()
    application.processEvents()
    dialog.grab().save(picture[0])
plugin.unload()
print("JSON" + json.dumps(found))
