"""Write cli.md from what `--help` says. Usage: make_cli.py [--check], which writes nothing and fails if it is stale."""

import sys
from pathlib import Path

import click

from geoseg.cli import cli

PAGE = Path(__file__).parent / "cli.md"
HEAD = """# The commands

Each command is one Python function of the same name, with the same options; [api.md](api.md) has these. Paths have
defaults, so in one folder `tile`, `train`, `predict` and `evaluate` find each other's outputs. Underscores are read as
dashes.

Results go to stdout, progress and warnings to stderr. The exit status is 0 when every output is whole, 1 for a fault in
the input or on the machine (one line each, and nothing half done is left behind), 2 for an unknown option or word, 130 after Ctrl-C
and 143 after SIGTERM.

`--config` takes the defaults of a command from its table in a TOML file; what stands on the command line wins:

```toml
[tile]
class-field = "class"
bands = [4, 3, 2]

[train]
epochs = 100

[predict]
polygons = false
```

*Made from `--help` by `python docs/make_cli.py`.*
"""


def page() -> str:
    """The text of cli.md, with the help of every command at a width of 100."""
    # Without a width click asks the terminal for one.
    top = click.Context(cli, info_name="geoseg", terminal_width=100, **cli.context_settings)
    parts = [HEAD, _section("geoseg", cli.get_help(top))]
    for name in cli.list_commands(top):
        command = cli.commands[name]
        text = command.get_help(click.Context(command, info_name=name, parent=top))
        parts.append(_section(f"geoseg {name}", text))
    return "\n".join(parts)


def _section(title: str, text: str) -> str:
    return f"## {title}\n\n```text\n{text}\n```\n"


def main(arguments: list[str]) -> int:
    """Write the page, or say whether it is as it would be written."""
    if arguments == ["--check"]:
        fresh = PAGE.exists() and PAGE.read_text(encoding="utf-8") == page()
        print(f"{PAGE.name} is {'as --help says' if fresh else 'stale: run python docs/make_cli.py'}")
        return 0 if fresh else 1
    if arguments:
        print(__doc__)
        return 2
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
