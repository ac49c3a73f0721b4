"""Scenes at an address and VRTs: nothing is asked of the network, and no strange file opened, unless the user allows it."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import rasterio
import rasterio.shutil
from rasterio.env import hasenv
from rasterio.errors import RasterioIOError
from rasterio.windows import Window
from scenery import named, one_line_each, write_vrt

from geoseg import raster
from geoseg.errors import MissingFileError, RasterError
from geoseg.remote import LOCAL, Access, RemoteFile, local_or_remote, network
from geoseg.scenes import Scene, describe_scene, find_scenes

REMOTE, VRT, BOTH = Access(remote=True), Access(vrt=True), Access(remote=True, vrt=True)


class Server:
    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"http://127.0.0.1:{port}"

    @property
    def requests(self) -> list[str]:
        """All that was asked for since this was last looked at."""
        log = self.folder / "log"
        found = log.read_text().splitlines() if log.exists() else []
        log.unlink(missing_ok=True)
        return found


@pytest.fixture(scope="module")
def web(tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("web")
    command = [sys.executable, Path(__file__).with_name("range_server.py"), folder, folder / "log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield Server(folder, int(process.stdout.readline()))
        process.terminate()


@pytest.fixture
def server(web) -> Server:
    _ = web.requests  # of the test before
    return web


@pytest.fixture
def web_scene(server, write_scene, rng, request):
    """The name of a COG on the server, with a nodata border, and its local twin; GDAL remembers addresses it has seen."""
    pixels = rng.integers(1, 255, (3, 1000, 900), np.uint8)
    pixels[:, :100] = 0
    plain = write_scene("plain.tif", pixels, nodata=0)
    name = f"{abs(hash(request.node.name))}.tif"
    rasterio.shutil.copy(plain, server.folder / name, driver="COG", blocksize=256, compress="deflate")
    return name, plain


def read(scene: Scene, window: Window) -> tuple[np.ndarray, np.ndarray]:
    with scene.open() as reader:
        return reader.read(window, range(1, len(scene.band_names) + 1))


def same(scene: Scene, other: Scene) -> bool:
    window = Window(-20, 90, 400, 300)
    (pixels, valid), (expected, expected_valid) = read(scene, window), read(other, window)
    return np.array_equal(pixels, expected) and np.array_equal(valid, expected_valid) and 0 < valid.mean() < 1


# --- addresses


def test_a_scene_at_an_address_takes_two_requests_to_open_and_two_for_a_window(server, web_scene):
    name, plain = web_scene
    assert server.requests == []
    (scene,) = find_scenes([f"{server.url}/{name}?signature=secret"], access=REMOTE)
    assert len(server.requests) <= 2
    assert (scene.name, scene.paths) == (name.removesuffix(".tif"), ())
    assert (str(scene.path), scene.path.name) == (f"{server.url}/{name}", name)
    local = describe_scene(plain)
    assert (scene.height, scene.width, scene.crs, scene.transform, scene.nodata, scene.dtypes) == (
        local.height, local.width, local.crs, local.transform, local.nodata, local.dtypes
    )  # fmt: skip
    with scene.open() as reader:
        assert server.requests == []  # what was seen of the file is remembered
        found, valid = reader.read(Window(256, 300, 256, 256), [1, 2, 3])
        assert 1 <= len(server.requests) <= 2
    expected, expected_valid = read(local, Window(256, 300, 256, 256))
    assert np.array_equal(found, expected)
    assert np.array_equal(valid, expected_valid)
    assert same(scene, local)


def test_a_mask_beside_an_address_counts(server, write_scene, rng):
    plain = write_scene("masked.tif", rng.integers(1, 255, (3, 400, 400), np.uint8))
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(plain, "r+") as dataset:
        dataset.write_mask(np.arange(400) < np.full((400, 1), 150))
    for path in (plain, plain.with_name("masked.tif.msk")):
        (server.folder / path.name).write_bytes(path.read_bytes())
    scene = describe_scene(RemoteFile(f"{server.url}/masked.tif"), REMOTE)
    assert same(scene, describe_scene(plain))


def test_where_an_index_may_be_out_of_reach_no_block_is_taken_for_empty(server):
    profile = {
        "driver": "GTiff",
        "height": 64,
        "width": 64,
        "count": 1,
        "dtype": "uint8",
        "nodata": 0,
        "crs": "EPSG:32614",
    }
    with rasterio.open(
        server.folder / "sparse.tif", "w", transform=rasterio.Affine(10, 0, 500_000, 0, -10, 4_500_000), tiled=True,
        blockxsize=16, blockysize=16, sparse_ok=True, **profile,
    ) as dataset:  # fmt: skip
        dataset.write(np.ones((1, 16, 16), np.uint8), window=Window(0, 0, 16, 16))
    for source, empty in (
        (server.folder / "sparse.tif", True), (RemoteFile(f"{server.url}/sparse.tif"), False),
    ):  # fmt: skip
        with describe_scene(source, REMOTE).open() as reader:
            assert reader.is_empty(Window(32, 32, 16, 16), [1]) == empty


def test_what_begins_like_an_address_and_is_none_is_said():
    with pytest.raises(RasterError, match=r"^http://\[bad/x\.tif: is no address \(Invalid IPv6 URL\); check it$"):
        find_scenes(["http://[bad/x.tif"], access=REMOTE)


def test_a_thread_reads_with_the_same_settings(server, web_scene):
    name, plain = web_scene
    scene, asked = describe_scene(RemoteFile(f"{server.url}/{name}"), REMOTE), []
    with scene.open() as reader:
        reader_seen = server.requests
        thread = threading.Thread(target=lambda: asked.append(reader.read(Window(0, 300, 256, 256), [1])[0]))
        thread.start()
        thread.join()
    assert len(reader_seen) <= 9  # with those for what may stand beside it
    assert 1 <= len(server.requests) <= 4
    assert np.array_equal(asked[0], read(describe_scene(plain), Window(0, 300, 256, 256))[0][:1])


@pytest.mark.parametrize("access", [LOCAL, VRT])
def test_an_address_that_is_not_allowed_is_not_asked(server, web_scene, access):
    with pytest.raises(RasterError, match=r"127\.0\.0\.1.*let predict and check read it with --allow-remote") as caught:
        find_scenes([f"{server.url}/{web_scene[0]}?signature=secret"], access=access)
    one_line_each(caught.value)
    assert "secret" not in str(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("scheme", ["http", "HTTPS", "ftp", "s3", "gs", "az", "oss"])
def test_what_begins_like_an_address_is_one(scheme):
    with pytest.raises(RasterError, match="--allow-remote"):
        find_scenes([f"{scheme}://bucket/a.tif"])
    assert local_or_remote(f"{scheme}://bucket/a.tif") == RemoteFile(f"{scheme}://bucket/a.tif")


@pytest.mark.parametrize("name", ["a.tif", "/vsicurl/http://host/a.tif", "file:///a.tif", "x/http://a.tif"])
def test_all_else_is_a_path(name):
    assert local_or_remote(name) == Path(name)
    with pytest.raises(MissingFileError, match="not found"):
        find_scenes([name], access=REMOTE)


def test_a_stack_is_on_this_machine():
    with pytest.raises(MissingFileError, match="folder of single-band files on this machine"):
        find_scenes(["http://host/folder"], stack=True, access=REMOTE)


def test_the_text_of_an_address_keeps_its_secrets():
    file = RemoteFile("https://user:word@host/a/b.c.tif?sig=key#part")
    assert (str(file), file.name, file.stem) == ("https://host/a/b.c.tif", "b.c.tif", "b.c")
    assert pickle.loads(pickle.dumps(file)) == file
    said = str(file.fault(RasterioIOError("'/vsicurl/https://user:word@host/a/b.c.tif?sig=key' is\nnot there")))
    assert "'/vsicurl/https://host/a/b.c.tif' is not there" in said


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("HTTP response code: 404", "check the address"),
        ("HTTP response code: 403", "credentials.*AWS_NO_SIGN_REQUEST"),
        ("AWS_SECRET_ACCESS_KEY and AWS_NO_SIGN_REQUEST configuration options not defined", "AWS_NO_SIGN_REQUEST=YES"),
        ("Operation timed out after 30000 milliseconds", "check the address and the network"),
    ],
)
def test_an_error_says_what_to_do(said, remedy):
    error = RemoteFile("s3://bucket/a.tif").fault(RasterioIOError(said))
    with pytest.raises(RasterError, match=rf"^s3://bucket/a\.tif: cannot be read \({said}\); .*{remedy}"):
        raise error


def test_what_cannot_be_read_is_said_in_one_line(server, monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_MAX_RETRY", "0")
    (server.folder / "text.tif").write_text("no TIFF" * 100)
    unreachable = "http://127.0.0.1:1"
    with pytest.raises(Exception, match="404") as caught:
        find_scenes([f"{server.url}/gone.tif", f"{server.url}/text.tif", f"{unreachable}/a.tif"], access=REMOTE)
    gone, text, refused = one_line_each(caught.value)
    assert gone == f"{server.url}/gone.tif: cannot be read (HTTP response code: 404); check the address"
    assert "an address must be that of a GeoTIFF" in text
    assert f"{unreachable}/a.tif: cannot be read" in refused
    assert "check the address and the network" in refused


def test_a_remote_vrt_is_no_geotiff(server, write_scene):
    write_vrt(server.folder / "remote.vrt", named(write_scene("a.tif", np.ones((64, 64), np.uint8))))
    with pytest.raises(RasterError, match="must be that of a GeoTIFF"):
        find_scenes([f"{server.url}/remote.vrt"], access=BOTH)


def test_what_the_user_sets_is_left_alone(monkeypatch):
    monkeypatch.setenv("GDAL_HTTP_TIMEOUT", "7")
    with rasterio.Env(GDAL_HTTP_MAX_RETRY="1"), network(RemoteFile("http://host/a.tif"), REMOTE):
        options = rasterio.env.getenv()
        assert options["GDAL_HTTP_MAX_RETRY"] == "1"
        assert options["GDAL_DISABLE_READDIR_ON_OPEN"] == "TRUE"
        assert "GDAL_HTTP_TIMEOUT" not in options
    with network(RemoteFile("http://host/a.tif?signature=secret"), REMOTE):  # beside which nothing can stand
        assert rasterio.env.getenv()["GDAL_DISABLE_READDIR_ON_OPEN"] == "EMPTY_DIR"
    with network(Path("a.tif"), REMOTE):  # a local file has no business on the network
        assert rasterio.env.getenv()["CPL_VSIL_CURL_ALLOWED_FILENAME"] == "none"
    assert not hasenv()


# --- VRTs


def test_a_vrt_is_read_where_it_is_allowed(write_scene, rng, tmp_path):
    plain = write_scene("plain.tif", rng.integers(1, 9, (2, 400, 300), np.uint8), nodata=3)
    rasterio.shutil.copy(plain, tmp_path / "mosaic.vrt", driver="VRT")
    with pytest.raises(RasterError, match=r"mosaic\.vrt.*a VRT, which may point anywhere.*--allow-vrt"):
        find_scenes([tmp_path / "mosaic.vrt"], access=REMOTE)
    for access in (VRT, BOTH):
        (scene,) = find_scenes([tmp_path / "mosaic.vrt"], access=access)
        assert (scene.name, scene.paths, scene.access) == ("mosaic", (tmp_path / "mosaic.vrt",), access)
        assert same(pickle.loads(pickle.dumps(scene)), describe_scene(plain))
        with scene.open() as reader:
            assert not reader.is_empty(Window(0, 0, 300, 400), [1, 2])


def test_a_vrt_may_name_vrts_beside_it(write_scene, tmp_path, monkeypatch):
    write_scene("d/a.tif", np.full((64, 64), 7, np.uint8))
    write_vrt(tmp_path / "d" / "inner.vrt", named("a.tif", relative=1))
    outer = write_vrt(tmp_path / "outer.vrt", named("d/inner.vrt", relative=1))
    assert (read(describe_scene(outer, VRT), Window(0, 0, 64, 64))[0] == 7).all()
    monkeypatch.chdir(tmp_path)
    link = Path("link.vrt")
    link.symlink_to(outer)
    assert (read(describe_scene(link, VRT), Window(0, 0, 64, 64))[0] == 7).all()
    write_vrt(tmp_path / "d" / "inner.vrt", named("../outer.vrt", relative=1))  # GDAL refuses circles
    with pytest.raises(RasterError):
        read(describe_scene(outer, VRT), Window(0, 0, 64, 64))


@pytest.mark.parametrize(
    "source",
    [
        named("/vsicurl/{url}/noext"), named("{url}/noext.tif"), named("/vsis3/bucket/noext"),
        named("{url}/noext", tag="sourceFILENAME"), "<SimpleSource SourceFilename='/vsicurl/{url}/noext'/>",
        named("<![CDATA[/vsicurl/{url}/noext]]>"), named("&#47;vsicurl/{url}/noext"), named("  {url}/noext "),
        named("/vsicurl_streaming/{url}/noext"), named("WMS:{url}/noext"), named("/vsizip//vsicurl/{url}/a.zip"),
        named("GTIFF_DIR:1:/vsicurl/{url}/noext"), named("vrt:///vsicurl/{url}/noext"),
        named("&lt;GDAL_WMS&gt;&lt;Service name='TMS'&gt;&lt;ServerUrl&gt;{url}&lt;/ServerUrl&gt;&lt;/Service&gt;&lt;/GDAL_WMS&gt;"),
        "<Metadata domain='GEOLOCATION'><MDI key='X_DATASET'>/vsicurl/{url}/noext</MDI></Metadata>",
    ],
)  # fmt: skip
def test_a_vrt_that_reaches_for_the_network_makes_no_request(server, write_scene, tmp_path, source):
    inner = write_vrt(tmp_path / "inner.vrt", source.replace("{url}", server.url))
    outer = write_vrt(tmp_path / "scene.tif", named(inner))
    for path in (inner, outer):
        with pytest.raises(RasterError, match=r"inner\.vrt: names .*(--allow-remote|not a local file)") as caught:
            read(describe_scene(path, VRT), Window(0, 0, 64, 64))
        one_line_each(caught.value)
    assert server.requests == []


@pytest.mark.parametrize("threaded", [False, True])
def test_a_second_wall_stands_behind_the_first(server, web_scene, monkeypatch, tmp_path, threaded):
    monkeypatch.setattr(raster, "files_of_vrt", lambda path, access: [])
    monkeypatch.setenv("CPL_VSIL_CURL_ALLOWED_EXTENSIONS", ".tif")
    name = f"wall{threaded}"  # no suffix: GDAL's documented {noext} would let it through
    (server.folder / name).write_bytes((server.folder / web_scene[0]).read_bytes())
    path = write_vrt(tmp_path / "a.vrt", *(named(f"/vsicurl/{server.url}/{name}?{number}") for number in range(3)))
    outcome = []

    def attempt() -> None:
        try:
            outcome.append(read(describe_scene(path, VRT), Window(0, 0, 64, 64)))
        except RasterError as error:
            outcome.append(error)

    thread = threading.Thread(target=attempt)
    thread.start() if threaded else attempt()
    thread.join() if threaded else None
    assert "does not exist" in str(outcome[0])
    assert server.requests == []


def test_a_vrt_of_addresses_is_read_where_both_are_allowed(server, web_scene, tmp_path):
    name, plain = web_scene
    path = write_vrt(tmp_path / "a.vrt", named(f"/vsicurl/{server.url}/{name}"))
    found, _ = read(describe_scene(path, BOTH), Window(0, 0, 64, 64))
    assert server.requests
    assert np.array_equal(found[0], read(describe_scene(plain), Window(0, 0, 64, 64))[0][0])


@pytest.mark.parametrize(
    ("bands", "match"),
    [
        ("<VRTRasterBand subClass='VRTRawRasterBand'>{}</VRTRasterBand>", "a VRT with a VRTRawRasterBand is not read"),
        ("<VRTRasterBand><subClass>VRTRawRasterBand</subClass>{}</VRTRasterBand>", "VRTRawRasterBand is not read"),
        (
            "<VRTRasterBand>{}</VRTRasterBand><SourceFilename>gone.tif</SourceFilename>",
            "gone.tif, which is not a local",
        ),
        ("<VRTRasterBand>{}</VRTRasterBand><SourceFilename/>", "names nothing, which is not a local file"),
        ("<VRTRasterBand>{}", "damaged VRT"),
    ],
)
def test_a_vrt_of_another_kind_is_refused(write_scene, tmp_path, bands, match):
    path = write_vrt(tmp_path / "a.vrt", named(write_scene("a.tif", np.ones((64, 64), np.uint8))), bands=bands)
    with pytest.raises(RasterError, match=rf"a\.vrt: .*{match}"):
        describe_scene(path, VRT)


def test_a_vrt_may_name_only_what_would_open_by_itself(tmp_path):
    (tmp_path / "x.mrf").write_text("<MRF_META><Raster><Size x='64' y='64'/></Raster></MRF_META>")
    with pytest.raises(RasterError, match=r"x\.mrf: a GeoTIFF, JPEG 2000, PNG or JPEG is needed"):
        describe_scene(write_vrt(tmp_path / "a.vrt", named(tmp_path / "x.mrf")), VRT)
