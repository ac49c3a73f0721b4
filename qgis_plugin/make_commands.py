"""Write commands.json of the plugin from the command line. Usage: make_commands.py [--check], which writes nothing."""

import json
import sys
from pathlib import Path
from typing import Any

import click

from geoseg.cli import SHARED, cli

FILE = Path(__file__).parent / "geoseg_processing" / "commands.json"
COMMANDS = ("tile", "train", "predict", "polygonize", "evaluate", "suggest", "sample")


def document() -> str:
    """The commands, each with its help and its parameters, as JSON."""
    return json.dumps({name: _command(cli.commands[name]) for name in COMMANDS}, indent=1, ensure_ascii=False) + "\n"


def _command(command: click.Command) -> dict[str, Any]:
    params = [_param(param) for param in command.params if param not in SHARED]
    return {"help": command.help, "params": params}


def _param(param: click.Parameter) -> dict[str, Any]:
    entry: dict[str, Any] = {"name": param.name, "required": param.required}
    # click has an object of its own for what has no default.
    default = param.default if isinstance(param.default, bool | int | float | str) else None
    if isinstance(param, click.Option):
        entry |= {"flag": max(param.opts, key=len), "help": param.help}
        if param.is_flag:
            off = max(param.secondary_opts, key=len) if param.secondary_opts else None
            # Of a flag that nobody gave a default, versions of click differ in what they say.
            return entry | {"type": "flag", "off": off, "default": default if off else False}
    if isinstance(param.type, click.Choice):
        return entry | {"type": "choice", "choices": [str(word) for word in param.type.choices], "default": default}
    kind = {"integer": "int", "float": "float", "m2|ha": "float", "path": "path", "file": "path"}.get(
        param.type.name, "text"
    )
    return entry | {"type": kind, "default": default}


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(FILE.read_text(encoding="utf-8") != document())
    FILE.write_text(document(), encoding="utf-8")
