"""Draw pictures of docs/labelling-in-qgis.md in QGIS, without windows. Run it with the Python of QGIS:

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 docs/draw_in_qgis.py DEMO_FOLDER

DEMO_FOLDER holds suggest.gpkg, points.gpkg and predictions/ of sample_data/scene_to_predict.tif.
"""

import sys
from pathlib import Path

from qgis.core import (
    QgsApplication,
    QgsContrastEnhancement,
    QgsMapRendererSequentialJob,
    QgsMapSettings,
    QgsProject,
    QgsRasterLayer,
    QgsVectorLayer,
)  # fmt: skip
from qgis.gui import QgsAttributeForm, QgsGui
from qgis.PyQt.QtCore import QSize
from qgis.PyQt.QtGui import QColor

HERE = Path(__file__).parent


def draw(layers, extent, name):
    """Draw layers, the uppermost first."""
    settings = QgsMapSettings()
    settings.setLayers(layers)
    settings.setExtent(extent)
    settings.setOutputSize(QSize(760, 560))
    settings.setBackgroundColor(QColor("white"))
    settings.setDestinationCrs(layers[-1].crs())
    job = QgsMapRendererSequentialJob(settings)
    job.start()
    job.waitForFinished()
    job.renderedImage().save(str(HERE / name), quality=85)


def main(demo):
    """Draw suggestions over the scene, points over it, the form of a point, and the map."""
    scene = QgsRasterLayer(str(HERE.parent / "sample_data" / "scene_to_predict.tif"), "scene")
    scene.setContrastEnhancement(QgsContrastEnhancement.StretchToMinimumMaximum)
    suggest = QgsVectorLayer(str(demo / "suggest.gpkg"), "suggest")
    points = QgsVectorLayer(f"{demo / 'points.gpkg'}|layername=points", "points")
    predictions = demo / "predictions" / "scene_to_predict_polygons.gpkg"
    polygons = QgsVectorLayer(f"{predictions}|layername=polygons", "polygons")
    QgsProject.instance().addMapLayers([scene, suggest, points, polygons])
    whole = scene.extent()
    draw([suggest, scene], whole, "qgis-suggest.jpg")
    draw([polygons, scene], whole, "qgis-map.jpg")
    near = points.getFeature(next(points.getFeatures()).id()).geometry().buffer(400, 4).boundingBox()
    draw([points, scene], near, "qgis-points.jpg")
    QgsGui.editorWidgetRegistry().initEditors()
    form = QgsAttributeForm(points, next(points.getFeatures()))
    form.resize(460, 150)
    form.grab().save(str(HERE / "qgis-form.png"))


if __name__ == "__main__":
    application = QgsApplication([], True)
    application.initQgis()
    main(Path(sys.argv[1]))
