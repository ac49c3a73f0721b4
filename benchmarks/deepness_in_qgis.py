"""How many pixels of a scene the QGIS plugin Deepness gives the class that `geoseg predict` gives them.

Run it with the Python of QGIS, without windows:

    QT_QPA_PLATFORM=offscreen /usr/bin/python3 benchmarks/deepness_in_qgis.py PLUGINS PACKAGES MODEL.onnx SCENE.tif CLASSES.tif

PLUGINS is the folder that holds `deepness/`, PACKAGES one made by `pip install --target` with what that needs (numpy below 2,
onnxruntime up to 1.17, opencv-python-headless), MODEL.onnx made by `geoseg export --for deepness`, CLASSES.tif the map.
"""

import json
import sys
from inspect import signature

plugins, packages, model_path, scene_path, classes_path = sys.argv[1:]
sys.path[:0] = [packages, plugins]

import numpy as np  # noqa: E402
from deepness.common.channels_mapping import ChannelsMapping, ImageChannelStandaloneBand  # noqa: E402
from deepness.common.processing_overlap import ProcessingOverlap, ProcessingOverlapOptions  # noqa: E402
from deepness.common.processing_parameters.map_processing_parameters import ProcessedAreaType  # noqa: E402
from deepness.common.processing_parameters.segmentation_parameters import SegmentationParameters  # noqa: E402
from deepness.processing.map_processor.map_processor_segmentation import MapProcessorSegmentation  # noqa: E402
from deepness.processing.models.segmentor import Segmentor  # noqa: E402
from qgis.core import QgsApplication, QgsProject, QgsRasterLayer  # noqa: E402

EDGE = 64
"""Pixels along the scene's edge that are left out of the second figure."""


def run_deepness():
    """The class index of every pixel, as the plugin finds it with the file's own parameters."""
    layer = QgsRasterLayer(scene_path, "scene")
    QgsProject.instance().addMapLayer(layer)
    model = Segmentor(model_path)
    facts = {name: json.loads(text) for name, text in model.sess.get_modelmeta().custom_metadata_map.items()}
    mapping = ChannelsMapping()
    mapping.set_number_of_model_inputs(model.get_number_of_channels())
    mapping.set_image_channels([ImageChannelStandaloneBand(n, f"{n}") for n in range(1, layer.bandCount() + 1)])
    for number, band in enumerate(facts["bands"]):
        mapping.set_image_channel_for_model_input(number, band["source"] - 1)
    overlap = ProcessingOverlap(
        ProcessingOverlapOptions.OVERLAP_IN_PERCENT, percentage=model.get_metadata_tiles_overlap()
    )
    given = dict.fromkeys(signature(SegmentationParameters).parameters) | {
        "resolution_cm_per_px": model.get_metadata_resolution(), "tile_size_px": model.get_metadata_tile_size(),
        "batch_size": 2, "local_cache": False, "processed_area_type": ProcessedAreaType.ENTIRE_LAYER,
        "input_layer_id": layer.id(), "processing_overlap": overlap, "input_channels_mapping": mapping, "model": model,
        "postprocessing_dilate_erode_size": model.get_metadata_segmentation_small_segment(),
        "pixel_classification__probability_threshold": model.get_metadata_segmentation_threshold(),
    }  # fmt: skip
    processor = MapProcessorSegmentation(
        rlayer=layer, vlayer_mask=None, map_canvas=None, params=SegmentationParameters(**given)
    )
    processor._run()
    return processor.get_result_img()[0] - 1, [entry["value"] for entry in facts["legend"]]


application = QgsApplication([], False)
application.initQgis()
indices, values = run_deepness()
layer = QgsRasterLayer(classes_path, "classes")
provider = layer.dataProvider()  # GDAL's own arrays want the numpy that it was built with
block = provider.block(1, provider.extent(), provider.xSize(), provider.ySize())
classes = np.frombuffer(bytes(block.data()), np.uint8).reshape(provider.ySize(), provider.xSize())
told = classes != provider.sourceNoDataValue(1)
equal = np.array(values)[indices] == classes
inner = np.zeros_like(told)
inner[EDGE:-EDGE, EDGE:-EDGE] = told[EDGE:-EDGE, EDGE:-EDGE]
print(f"{equal[told].mean():.4%} of the pixels have the same class; {equal[inner].mean():.4%} away from the edge")
