"""Packages that only some need: what to install where one is asked for and not there."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from geoseg.errors import MissingPackageError


def is_installed(package: str) -> bool:
    """Whether a package is there, without importing it."""
    return find_spec(package) is not None


def refuse_missing(package: str, *, extra: str, asked: str) -> None:
    """Say which extra of geoseg brings a package that is not installed.

    Args:
        package: as it is imported.
        extra: of geoseg.
        asked: the option or the file that needs it.

    Raises:
        MissingPackageError: it is not installed.
    """
    if not is_installed(package):
        raise MissingPackageError(
            f'{asked}: the package {package} is not installed; install it with: pip install "geoseg[{extra}]"'
        )


def import_openvino(asked: str) -> Any:
    """OpenVINO, which reports to nobody.

    Raises:
        MissingPackageError: it is not installed.
    """
    refuse_missing("openvino", extra="openvino", asked=asked)
    # It would report every import to its makers over the network, unless the package that does so cannot be found.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_module("openvino")
