"""Make the sample data: two synthetic farmland scenes and the outlines of their cultivated parcels.

    python sample_data/make_sample.py [OUT_FOLDER]

No satellite took these pictures. A map is drawn first, as polygons (parcels, hedges, tracks, woods, villages, a
river); every polygon then gets a mixture of materials, and the pixels follow from that. Crops and grassland are mixed
from the same materials, so colour alone cannot tell them apart: drilling rows, shape and surroundings do.
"""

import sys
from pathlib import Path
from typing import NamedTuple

import geopandas
import numpy as np
import pyogrio
import rasterio
import shapely
from rasterio import Affine
from rasterio.enums import ColorInterp
from rasterio.features import rasterize
from rasterio.transform import array_bounds
from shapely import Geometry, LineString, MultiPoint, Polygon
from shapely.ops import split

Rng = np.random.Generator
Patch = tuple[Geometry, str]  # a shape on the map and its cover
Cut = tuple[Geometry, float]  # a line that divided land, and the area of that land in m2

CRS, LABEL_CRS = "EPSG:32631", "EPSG:4326"
STEP, NOISE = 32, 8  # of the made-up sensor, reflectance x 10000: coarse steps keep the files small

BANDS = ("blue", "green", "red", "nir")
COLOURS = (ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined)  # QGIS shows true colours
HAZE = (2300, 1700, 1300, 900)  # what a wholly opaque haze would send back
MATERIALS = {  # what each sends back, reflectance x 10000
    "leaf": (280, 620, 330, 4300),
    "straw": (800, 1230, 1680, 2900),
    "soil": (760, 1030, 1390, 2050),
    "crown": (240, 440, 270, 2900),
    "water": (480, 560, 380, 230),
    "gravel": (1080, 1280, 1480, 1950),
}


class Cover(NamedTuple):
    """What grows or stands somewhere: shares of leaf and straw lie between two bounds, what is left is `rest`."""

    leaf: tuple[float, float]
    straw: tuple[float, float]
    rows: float = 0.0  # contrast of drilling rows and tramlines
    mottle: float = 0.0  # contrast of tufts, grazing and crowns
    rest: str = "soil"


CROPS = {
    "bare": Cover((0.00, 0.08), (0.00, 0.08), rows=0.10, mottle=0.02),
    "sprouting": Cover((0.15, 0.45), (0.00, 0.06), rows=0.22, mottle=0.02),
    "young": Cover((0.45, 0.80), (0.00, 0.08), rows=0.22, mottle=0.02),
    "closed": Cover((0.80, 0.98), (0.00, 0.05), rows=0.15, mottle=0.02),
    "ripening": Cover((0.25, 0.45), (0.35, 0.55), rows=0.17, mottle=0.02),
    "ripe": Cover((0.00, 0.12), (0.65, 0.95), rows=0.12, mottle=0.02),
    "stubble": Cover((0.00, 0.15), (0.30, 0.60), rows=0.16, mottle=0.02),
}
OTHERS = {
    "meadow": Cover((0.50, 0.85), (0.05, 0.25), mottle=0.08),
    "pasture": Cover((0.30, 0.60), (0.15, 0.40), mottle=0.12),
    "dry grass": Cover((0.08, 0.30), (0.35, 0.70), mottle=0.12),
    "waste": Cover((0.02, 0.20), (0.10, 0.30), mottle=0.10),
    "wood": Cover((0.00, 0.30), (0.00, 0.05), mottle=0.16, rest="crown"),
    "hedge": Cover((0.05, 0.30), (0.00, 0.10), mottle=0.15, rest="crown"),
    "built": Cover((0.00, 0.15), (0.00, 0.25), mottle=0.10, rest="gravel"),
    "river": Cover((0.00, 0.01), (0.00, 0.01), mottle=0.03, rest="water"),
}
UNTILLED = {"meadow": 0.40, "pasture": 0.28, "dry grass": 0.13, "waste": 0.08, "wood": 0.11}


class Scene(NamedTuple):
    """One scene to make: its place in `CRS`, its crops with their weights, haze (0 to 1) and sunlight."""

    suffix: str  # of the names of the files
    seed: int
    height: int
    width: int
    transform: Affine
    crops: dict[str, float]
    haze: float
    sun: float


SCENES = (
    Scene("", 11, 1280, 1280, Affine(10, 0, 465_000, 0, -10, 5_580_000),
          {"bare": 3, "sprouting": 3, "young": 4, "closed": 4, "ripening": 2, "ripe": 4, "stubble": 2}, 0.10, 1.0),
    Scene("_to_predict", 23, 701, 837, Affine(10, 0, 512_000, 0, -10, 5_541_000),
          {"bare": 2, "sprouting": 2, "young": 3, "closed": 4, "ripening": 3, "ripe": 5, "stubble": 3}, 0.15, 0.95),
)  # fmt: skip


def polygons(shape: Geometry) -> list[Polygon]:
    """The polygons a geometry is made of."""
    return [part for part in shapely.get_parts(shape) if isinstance(part, Polygon) and part.area > 0]


def draw(rng: Rng, weights: dict[str, float]) -> str:
    """One of the names, drawn by weight."""
    return str(rng.choice(list(weights), p=np.array(list(weights.values())) / sum(weights.values())))


def blob(rng: Rng, centre: np.ndarray, radius: float) -> Polygon:
    """A rounded, lobed outline."""
    turn = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    lobes = sum(rng.normal(0, 0.4 / k) * np.cos(k * turn + rng.uniform(0, 6.3)) for k in range(1, 6))
    return Polygon(centre + radius * (np.clip(1 + lobes, 0.4, 2) * [np.cos(turn), np.sin(turn)]).T)


def strew(rng: Rng, extent: Polygon, per_km2: float, least: float, most: float) -> Geometry:
    """Blobs all over the extent, at least one, of radii between two bounds."""
    left, bottom, right, top = extent.bounds
    centres = rng.uniform((left, bottom), (right, top), (max(1, round(per_km2 * extent.area / 1e6)), 2))
    return shapely.union_all([blob(rng, centre, rng.uniform(least, most)) for centre in centres])


def river_course(rng: Rng, extent: Polygon) -> LineString:
    """A winding line from the western to the eastern edge."""
    left, bottom, right, top = extent.bounds
    x = np.linspace(left - 500, right + 500, 300)
    bends = [(9000, 600), (3300, 300), (1400, 110)]  # wavelength and amplitude in metres
    y = sum(a * np.sin(2 * np.pi * x / w + rng.uniform(0, 6.3)) for w, a in bends)
    return LineString(np.column_stack([x, y + bottom + rng.uniform(0.35, 0.65) * (top - bottom)]))


def districts(rng: Rng, extent: Polygon, spacing: float = 2300) -> list[Polygon]:
    """The cells of an irregular net; roads run along its edges and villages lie on its nodes."""
    left, bottom, right, top = extent.bounds
    x, y = np.meshgrid(np.arange(left - spacing, right + spacing, spacing), np.arange(bottom, top + spacing, spacing))
    centres = np.stack([x, y], -1).reshape(-1, 2) + rng.uniform(-0.45, 0.45, (x.size, 2)) * spacing
    cells = shapely.voronoi_polygons(MultiPoint(centres), extend_to=extent, ordered=True)
    return polygons(shapely.intersection(shapely.get_parts(cells), extent))


def long_side(shape: Geometry) -> tuple[float, float, float]:
    """Bearing of the long side of the tightest rectangle in radians; that rectangle's length and width."""
    corners = np.array(shapely.oriented_envelope(shape).exterior.coords)
    sides = np.diff(corners[:3], axis=0)
    lengths = np.hypot(*sides.T)
    east, north = sides[np.argmax(lengths)]
    return float(np.arctan2(north, east)), float(lengths.max()), float(lengths.min())


def parcel_out(rng: Rng, land: Geometry, area_m2: float, slender: float) -> tuple[list[Polygon], list[Cut]]:
    """Cut land in two, and again, until the pieces have about the wanted area; the pieces and the cuts."""
    todo, pieces, cuts = polygons(land), [], []
    while todo:
        shape = todo.pop()
        if shape.area < area_m2 * rng.uniform(0.5, 2.2):
            pieces.append(shape)
            continue
        bearing, length, width = long_side(shape)
        bearing += np.pi / 2 if length / width > slender or rng.random() < 0.1 else 0
        bearing += rng.normal(0, 0.08) if rng.random() < 0.88 else rng.uniform(-0.8, 0.8)
        t = np.linspace(-1, 1, 7)
        along, bow = (length + width) * t, rng.normal(0, 0.07) * (length + width) * (1 - t**2)
        x, y = np.array(shape.centroid.coords[0]) + rng.normal(0, 0.1, 2) * width
        c, s = np.cos(bearing), np.sin(bearing)
        line = LineString(np.column_stack([x + along * c - bow * s, y + along * s + bow * c]))
        parts = polygons(split(shape, line))
        cuts += [(line.intersection(shape), shape.area)] if len(parts) > 1 else []
        todo += parts
    return pieces, cuts


def village(rng: Rng, outline: Geometry) -> list[Patch]:
    """Gardens, streets and houses inside an outline."""
    plots, cuts = parcel_out(rng, outline, 3000, slender=1.6)
    gardens = [(plot, draw(rng, {"meadow": 4, "pasture": 3, "hedge": 2, "waste": 1})) for plot in plots]
    streets = [(line.buffer(4), "built") for line, area in cuts if area > 25_000]
    houses = [(plot.centroid.buffer(rng.uniform(5, 11), cap_style="square"), "built") for plot in plots]
    return gardens + streets + houses


def border(rng: Rng, line: Geometry, divided_m2: float) -> Patch:
    """What stands along a cut: a track between blocks of parcels; a hedge, grass or nothing between parcels."""
    cover = "built" if divided_m2 > 6e5 else draw(rng, {"hedge": 0.3, "pasture": 0.3, "nothing": 0.4})
    return line.buffer({"built": 7, "hedge": 9, "pasture": 6, "nothing": 0}[cover], quad_segs=2), cover


def draw_map(rng: Rng, scene: Scene) -> list[Patch]:
    """The map of a scene in painting order: later patches lie on top, and crops come last."""
    bounds = shapely.box(*array_bounds(scene.height, scene.width, scene.transform))
    extent = bounds.buffer(200, join_style="mitre")  # the map goes on beyond the scene, as labels do in real life
    course, forest = river_course(rng, extent), strew(rng, extent, 0.2, 150, 500)
    banks, floodplain = course.buffer(65), course.buffer(300)
    cells = districts(rng, extent)
    roads = shapely.union_all([cell.exterior for cell in cells])
    pieces, patches, parcels = [], [], []
    for cell in cells:
        fields, cuts = parcel_out(rng, cell.difference(banks), rng.choice([6e4, 11e4, 20e4]), rng.choice([1.5, 1.8, 4]))
        pieces += fields
        patches += [border(rng, line, area) for line, area in cuts]
    scrub = [(blob(rng, spot, rng.uniform(40, 90)), "hedge") for spot in shapely.get_coordinates(course)[::6]]
    patches += [(banks, "pasture"), *scrub, (strew(rng, extent, 1.5, 15, 55), "wood")]
    for node in shapely.get_coordinates(roads.boundary):
        outskirts = blob(rng, node, rng.uniform(20, 330)).intersection(roads.buffer(130))
        patches += village(rng, outskirts.difference(banks))
    patches += [(course.buffer(30), "river"), (roads.buffer(9), "built")]
    taken = shapely.union_all([shape for shape, _ in patches])
    for piece in pieces:
        tilled = rng.random() < (0.25 if floodplain.intersects(piece) else 0.76)
        cover = "wood" if forest.contains(piece.centroid) else draw(rng, scene.crops if tilled else UNTILLED)
        left = piece.difference(taken).buffer(-2, join_style="mitre").buffer(2, join_style="mitre")  # off with spikes
        parcels += [(part, cover) for part in polygons(left.simplify(0.5)) if part.area > 4000]
    return [patch for patch in patches if not patch[0].is_empty] + sorted(parcels, key=lambda patch: patch[1] in CROPS)


def smooth_noise(rng: Rng, shape: tuple[int, int], scale: float) -> np.ndarray:
    """Noise of about unit spread that changes over `scale` pixels: (height, width)."""
    y, x = (np.arange(size) / scale for size in shape)
    coarse = rng.normal(0, 1.4, (int(y[-1]) + 2, int(x[-1]) + 2))
    i, j = y.astype(int)[:, None], x.astype(int)
    v, u = (3 * f**2 - 2 * f**3 for f in (y[:, None] - i, x - j))
    north = coarse[i, j] * (1 - u) + coarse[i, j + 1] * u
    south = coarse[i + 1, j] * (1 - u) + coarse[i + 1, j + 1] * u
    return north * (1 - v) + south * v


def mixtures(rng: Rng, covers: list[Cover]) -> np.ndarray:
    """How much of each material every patch holds: (patches, materials), each row adds up to 1."""
    mixed, at = np.zeros((len(covers), len(MATERIALS))), list(MATERIALS).index
    for row, cover in zip(mixed, covers, strict=True):
        leaf, straw = rng.uniform(*cover.leaf), rng.uniform(*cover.straw)
        row[[at("leaf"), at("straw"), at(cover.rest)]] = leaf, min(straw, 1 - leaf), max(0, 1 - leaf - straw)
    return mixed


def texture(rng: Rng, covers: list[Cover], bearings: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Rows along each parcel's own bearing, tufts and crowns, and slow change of the ground: (height, width)."""
    contrasts = np.array([(cover.rows, cover.mottle) for cover in covers])
    rows, mottle = (contrasts * rng.uniform(0.35, 1.0, contrasts.shape)).T
    period, bearing = rng.uniform(2.5, 5.0, len(covers))[ids], bearings[ids]
    y, x = np.indices(ids.shape)
    across = x * np.sin(bearing) + y * np.cos(bearing)  # pixels; array rows count southwards
    stripes = np.cos(2 * np.pi * across / period + 0.6 * smooth_noise(rng, ids.shape, 20))
    tufts = 0.6 * smooth_noise(rng, ids.shape, 2.5) + 0.6 * smooth_noise(rng, ids.shape, 6)
    return rows[ids] * stripes + mottle[ids] * tufts + 0.04 * smooth_noise(rng, ids.shape, 18)


def blur(band: np.ndarray) -> np.ndarray:
    """What the optics do: a pixel sees a little of its neighbours."""
    for _ in range(2):
        padded = np.pad(band, ((1, 1), (0, 0)), mode="edge")
        band = (0.17 * padded[:-2] + 0.66 * band + 0.17 * padded[2:]).T
    return band


def photograph(rng: Rng, patches: list[Patch], scene: Scene) -> np.ndarray:
    """The map as the sensor sees it, reflectance x 10000: (bands, height, width) uint16, 0 where it did not look."""
    shape = scene.height, scene.width
    shapes, names = zip(*patches, strict=True)
    numbered = ((outline, number) for number, outline in enumerate(shapes))
    ids = rasterize(numbered, shape, transform=scene.transform, fill=len(shapes), dtype="int32")
    covers = [(CROPS | OTHERS)[name] for name in (*names, "pasture")]  # the last one fills what no patch covers
    bearings = np.array([*(long_side(outline)[0] for outline in shapes), 0])
    mixed, grain = mixtures(rng, covers), texture(rng, covers, bearings, ids)
    shade = rng.normal(1, 0.07, (len(covers), 1)) + rng.normal(0, 0.02, (len(covers), len(BANDS)))
    spectra = mixed @ np.array(list(MATERIALS.values())) * shade
    # Where rows of leaves part, soil shows (red up, near infrared down); elsewhere rows are light and shade.
    contrast = mixed[:, :1] * np.subtract(MATERIALS["soil"], MATERIALS["leaf"]) + (1 - mixed[:, :1]) * spectra
    y, x = np.indices(shape) / np.array(shape)[:, None, None]
    veil = scene.haze * np.clip(x + 0.15 * smooth_noise(rng, shape, 300), 0, 1.3)
    image = np.zeros((len(BANDS), *shape), "uint16")
    for k, haze in enumerate(HAZE):
        seen = scene.sun * blur(spectra[ids, k] + grain * contrast[ids, k])
        seen = (1 - veil) * seen + veil * haze + rng.normal(0, NOISE, shape)
        image[k] = np.clip(np.round(seen / STEP), 1, 10_000 // STEP) * STEP
    image[:, x > 1.03 - 0.1 * y] = 0  # the swath ends in a wedge along the eastern edge
    return image


def make_scene(scene: Scene, out: Path) -> None:
    """Draw, photograph and write one scene and the labels of it."""
    rng = np.random.default_rng(scene.seed)
    patches = draw_map(rng, scene)
    out.mkdir(parents=True, exist_ok=True)
    size = {"count": len(BANDS), "height": scene.height, "width": scene.width, "dtype": "uint16", "nodata": 0}
    packing = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", "predictor": 2, "zlevel": 9}
    place = {"crs": CRS, "transform": scene.transform}
    with rasterio.open(out / f"scene{scene.suffix}.tif", "w", driver="GTiff", **size, **packing, **place) as file:
        file.descriptions, file.colorinterp = BANDS, COLOURS
        file.write(photograph(rng, patches, scene))
    outlines = [shape for shape, cover in patches if cover in CROPS]
    labels = geopandas.GeoDataFrame({"class": ["cultivated"] * len(outlines)}, geometry=outlines, crs=CRS)
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": "2024-01-01T00:00:00Z"})  # GeoPackages carry a date
    labels.to_crs(LABEL_CRS).to_file(out / f"labels{scene.suffix}.gpkg", driver="GPKG")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": None})


if __name__ == "__main__":
    for wanted in SCENES:
        make_scene(wanted, Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent)
