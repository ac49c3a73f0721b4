"""What a scene may reach besides files of its own: addresses on the network, and what a VRT names."""

from __future__ import annotations

import os
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import rasterio
from rasterio.env import getenv, hasenv

from geoseg.errors import RasterError

_ADDRESS = re.compile(r"(?:https?|ftp|s3|gs|az|oss)://", re.IGNORECASE)  # those that rasterio knows
_GDAL_ADDRESS = re.compile(r"(?:https?|ftp)://|/vsi(?:curl|s3|gs|az|adls|oss|swift)/", re.IGNORECASE)

# Two requests to open a GeoTIFF and one or two for a window of it, where GDAL's defaults make ten for the first.
_TRANSFER = {
    "GDAL_HTTP_MULTIPLEX": "YES", "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES", "VSI_CACHE": "TRUE",
    "GDAL_HTTP_MAX_RETRY": "3", "GDAL_HTTP_RETRY_DELAY": "1", "GDAL_HTTP_TIMEOUT": "30",
}  # fmt: skip
# Where a query ends an address, as a signature does, nothing can stand beside it: GDAL would put `.msk` behind the query.
_WITHOUT_SIDECARS = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR"}

# A mask beside a raster is then looked for under its own name alone, not under names that differ in their case.
_BY_NAME = {"GDAL_DISABLE_READDIR_ON_OPEN": "TRUE"}

# No file is called so. The other option, CPL_VSIL_CURL_ALLOWED_EXTENSIONS={noext}, lets names without a suffix through.
_WALL = {"CPL_VSIL_CURL_ALLOWED_FILENAME": "none"}

_FILE_TAGS = frozenset({"sourcefilename", "sourcedataset", "dempath"})
_FILE_KEYS = frozenset({"x_dataset", "y_dataset", "rpc_dem"})
# Raw bands turn any file into pixels, and processed ones name files in arguments without end.
_SUBCLASSES = frozenset({
    "vrtsourcedrasterband", "vrtderivedrasterband", "vrtwarpeddataset", "vrtwarpedrasterband",
    "vrtpansharpeneddataset", "vrtpansharpenedrasterband",
})  # fmt: skip

_REMEDIES = (
    ("404", "check the address"),
    ("403|401|AWS_|AZURE_|GS_|credential", "give credentials in the environment, such as AWS_PROFILE; a public bucket "
     "is read with AWS_NO_SIGN_REQUEST=YES, GS_NO_SIGN_REQUEST=YES or AZURE_NO_SIGN_REQUEST=YES"),
    ("supported file format", "an address must be that of a GeoTIFF; download the file and convert it with: "
     "gdal_translate IN OUT.tif"),
    ("", "check the address and the network, or download the file"),
)  # fmt: skip


class Access(NamedTuple):
    """What scenes may be besides local rasters.

    Attributes:
        remote: GeoTIFFs at an address, and VRTs that name one.
        vrt: VRTs, which name other rasters.
    """

    remote: bool = False
    vrt: bool = False


LOCAL = Access()


@dataclass(frozen=True)
class RemoteFile:
    """A GeoTIFF at an address: http, https, ftp, s3, gs, az or oss.

    Its text, for messages and run files, leaves out what may be secret: a password, and the query in which signed
    addresses bear their key.
    """

    url: str

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(urlsplit(self.url).path).name

    @property
    def stem(self) -> str:
        """The last part of the address without its suffix."""
        return PurePosixPath(self.name).stem

    def fault(self, cause: BaseException) -> RasterError:
        """The error, in one line without secrets, for what GDAL says of the address."""
        said, parts = " ".join(str(cause).split()), urlsplit(self.url)
        for secret in (f"?{parts.query}", f"{parts.netloc.rpartition('@')[0]}@"):
            said = said.replace(secret, "") if len(secret) > 1 else said
        remedy = next(remedy for sign, remedy in _REMEDIES if re.search(sign, said))
        return RasterError(f"{self}: cannot be read ({said}); {remedy}")


def local_or_remote(entry: str | Path) -> Path | RemoteFile:
    """What the user means: an address where it begins like one, else a path.

    Raises:
        RasterError: it begins like an address, and is none.
    """
    if not (isinstance(entry, str) and _ADDRESS.match(entry)):
        return Path(entry)
    try:
        urlsplit(entry)
    except ValueError as error:
        raise RasterError(f"{entry}: is no address ({error}); check it") from None
    return RemoteFile(entry)


def refuse_remote(source: RemoteFile, access: Access) -> None:
    """Raise `RasterError` unless addresses are allowed."""
    if not access.remote:
        raise RasterError(
            f"{source}: an address on the network; download the file, or let predict and check read it with --allow-remote"
        )


def network(source: Path | RemoteFile, access: Access) -> AbstractContextManager[Any]:
    """GDAL's settings while a source is opened or read, on the thread that does so.

    For addresses these are the ones that need few requests, each unless the user's environment sets it. What may not reach
    the network is walled in, whatever it names.
    """
    if isinstance(source, RemoteFile):
        wanted = _TRANSFER | (_WITHOUT_SIDECARS if urlsplit(source.url).query else _BY_NAME)
    elif access.vrt and access.remote:
        wanted = _TRANSFER | _BY_NAME
    else:
        return rasterio.Env(**_WALL, **_BY_NAME)
    already = {*os.environ, *(getenv() if hasenv() else ())}
    return rasterio.Env(**{name: value for name, value in wanted.items() if name not in already})


def files_of_vrt(path: Path, access: Access) -> list[Path]:
    """The local files that a VRT names.

    GDAL takes elements for attributes and the reverse, and upper for lower case; so does this.

    Raises:
        RasterError: it is damaged, of a kind that is not read, names an address that is not allowed or a file that is
            not there.
    """
    found: dict[Path, None] = {}
    try:
        facts = list(_facts(ET.fromstring(path.read_text(encoding="utf-8"))))
    except (ET.ParseError, UnicodeDecodeError) as error:
        raise RasterError(f"{path}: damaged VRT ({error}); make it again with: gdalbuildvrt") from None
    for tag, text in facts:
        if tag == "subclass" and text.lower() not in _SUBCLASSES:
            raise RasterError(f"{path}: a VRT with a {text} is not read; convert it with: gdal_translate IN OUT.tif")
        if tag not in _FILE_TAGS:
            continue
        if _GDAL_ADDRESS.match(text):
            if not access.remote:
                place = RemoteFile(text)
                raise RasterError(f"{path}: names {place}, on the network; allow it with --allow-remote")
            continue
        # Whether a name counts from the VRT's folder or the current one is said in more ways than are worth knowing.
        folders = (path.absolute().parent, path.resolve().parent, Path())
        there = [folder / text for folder in folders if text and (folder / text).is_file()]
        if not there:
            raise RasterError(
                f"{path}: names {' '.join(text.split()) or 'nothing'}, which is not a local file; mend or remove that entry"
            )
        # Links among folders are followed, not that of the file: masks stand beside it, not beside what it leads to.
        found |= dict.fromkeys(file.parent.resolve() / file.name for file in there)
    return list(found)


def _facts(root: ET.Element) -> Iterator[tuple[str, str]]:
    """Lower-case names and texts of all elements and attributes; metadata items that name files count as such."""
    for element in root.iter():
        tag = element.tag.rpartition("}")[2].lower()
        is_file = tag == "mdi" and element.get("key", "").lower() in _FILE_KEYS
        yield "sourcefilename" if is_file else tag, "".join(element.itertext()).strip()
        yield from ((name.rpartition("}")[2].lower(), text.strip()) for name, text in element.attrib.items())
