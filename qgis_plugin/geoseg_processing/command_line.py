"""Running geoseg in a process of its own: its words, its progress, its end. Knows nothing of QGIS."""

import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

NEEDED = (0, 1, 0)
"""The oldest geoseg that knows all options of commands.json."""

_PROGRESS = re.compile(r"^(?P<stage>.*?): +(?P<percent>\d+)%\|")
_FOREIGN = (
    "PYTHONHOME", "PYTHONPATH", "GDAL_DATA", "GDAL_DRIVER_PATH", "PROJ_LIB", "PROJ_DATA", "LD_LIBRARY_PATH", "LD_PRELOAD",
    "DYLD_LIBRARY_PATH",
)  # fmt: skip
"""What QGIS sets for its own libraries, and would lead those of geoseg astray."""
_PATIENCE_S = 30


class MissingGeosegError(Exception):
    """No geoseg, or one that is too old; the text is one line."""


class GeosegRunError(Exception):
    """geoseg ended with an error; the text is its own line."""


def find_executable(setting: str) -> str:
    """The executable: the one that the setting names, or else the one on the PATH.

    Raises:
        MissingGeosegError: there is none, it does not run, or it is older than this plugin.
    """
    path = setting.strip() or shutil.which("geoseg")
    where = "Settings > Options > Processing > Providers > geoseg"
    if not path:
        raise MissingGeosegError(
            "geoseg is not on the PATH: install it with 'pip install geoseg' in an environment of its own, and name its "
            f"executable under {where}"
        )
    try:
        told = subprocess.run(
            [path, "--version"],
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=120,
            env=own_environment(),
            **_hidden(),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MissingGeosegError(
            f"{path} does not run ({error}): name the executable of geoseg under {where}"
        ) from None
    found = re.search(r"geoseg, version (\d+)\.(\d+)\.(\d+)", told.stdout)
    if told.returncode or not found:
        raise MissingGeosegError(f"{path} is not geoseg: name its executable under {where}")
    version = tuple(map(int, found.groups()))
    if version < NEEDED:
        raise MissingGeosegError(
            f"{path} is geoseg {'.'.join(map(str, version))}, this plugin needs {'.'.join(map(str, NEEDED))} or later: "
            "pip install --upgrade geoseg"
        )
    return path


def own_environment() -> dict:
    """The environment without what QGIS adds for itself."""
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    return {**kept, "GEOSEG_PROGRESS_SECONDS": "1", "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8"}


def arguments(command: dict, values: dict) -> list:
    """The words of a command line.

    Args:
        command: as in commands.json.
        values: by name of the parameter; those that are missing, None or the default are not said.
    """
    options, positional = [], []
    for param in command["params"]:
        value = values.get(param["name"])
        if value is None or value == "" or (value == param["default"] and "flag" in param):
            continue
        if "flag" not in param:
            positional += [str(part) for part in (value if isinstance(value, list) else [value])]
        elif param["type"] == "flag":
            word = param["flag"] if value else param["off"]
            options += [word] if word else []
        else:
            options += [f"{param['flag']}={value}"]
    return [*options, "--", *positional]


def run(
    words: list,
    *,
    progress: Callable[[str, float], None],
    say: Callable[[str], None],
    cancelled: Callable[[], bool],
) -> str:
    """Run geoseg to its end, or until it is cancelled, when it is asked to clean up after itself.

    Args:
        words: the executable and its arguments.
        progress: is told stages and percents.
        say: is told all other lines, warnings among them.
        cancelled: is asked twice a second.

    Returns:
        What it printed as its result.

    Raises:
        GeosegRunError: with its own last line.
    """
    new_group = (
        {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.CREATE_NO_WINDOW} if os.name == "nt" else {}
    )
    process = subprocess.Popen(
        words,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=own_environment(),
        **new_group,
    )
    lines: queue.Queue = queue.Queue()
    readers = [
        threading.Thread(target=_read, args=(stream, kind, lines), daemon=True)
        for stream, kind in ((process.stdout, "out"), (process.stderr, "err"))
    ]
    for reader in readers:
        reader.start()
    result, said, stopping = [], [], None
    try:
        while process.poll() is None or any(reader.is_alive() for reader in readers) or not lines.empty():
            if cancelled() and not stopping:
                stopping = _stop(process)
            try:
                kind, line = lines.get(timeout=0.5)
            except queue.Empty:
                continue
            if kind == "out":
                result.append(line)
            elif found := _PROGRESS.match(line):
                progress(found["stage"].strip(), float(found["percent"]))
            else:
                said.append(line)
                say(line)
    finally:
        if stopping:
            stopping.cancel()
        if process.poll() is None:
            process.kill()
        process.wait()
        for reader in readers:
            reader.join()
        process.stdout.close()
        process.stderr.close()
    if process.returncode and not stopping:
        errors = [number for number, line in enumerate(said) if line.startswith("Error: ")]
        if not errors and process.returncode < 0:
            raise GeosegRunError(f"geoseg was ended by signal {-process.returncode}; perhaps there was no memory left")
        told = "; ".join(said[errors[-1] :] if errors else said[-1:]).removeprefix("Error: ")
        raise GeosegRunError(told or f"geoseg ended with {process.returncode}")
    return "\n".join(result)


def _stop(process: subprocess.Popen) -> threading.Timer:
    """Ask a process to stop, and end it by force where it does not; the timer that will.

    Not as Ctrl-C does: of that, a QGIS that a script has put into the background hears nothing, and neither does geoseg then.
    """
    try:
        process.send_signal(signal.CTRL_BREAK_EVENT if os.name == "nt" else signal.SIGTERM)
    except OSError:  # on Windows, where the two have no console in common
        process.kill()
    timer = threading.Timer(_PATIENCE_S, lambda: process.poll() is None and process.kill())
    timer.daemon = True
    timer.start()
    return timer


def _read(stream, kind: str, lines: queue.Queue) -> None:
    """Split a stream at line ends and at carriage returns, with which a bar is drawn over itself."""
    rest = b""
    while chunk := stream.read1(65536):
        *whole, rest = re.split(rb"[\r\n]+", rest + chunk)
        for line in whole:
            if line.strip():
                lines.put((kind, line.decode("utf-8", "replace").rstrip()))
    if rest.strip():
        lines.put((kind, rest.decode("utf-8", "replace").rstrip()))


def _hidden() -> dict:
    return {"creationflags": subprocess.CREATE_NO_WINDOW} if sys.platform == "win32" else {}
