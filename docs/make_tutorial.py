"""Run the code of tutorial.md, and put what it shows below it: text into the page, pictures beside it.

    python docs/make_tutorial.py [--check]

With `--check` nothing is written; it fails where the code does, or shows another kind of thing than the page has.
"""

from __future__ import annotations

import ast
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

DOCS = Path(__file__).resolve().parent
PAGE = DOCS / "tutorial.md"
_BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n.*?^```\n|\n!\[[^\n]*\n)?", re.MULTILINE | re.DOTALL)


def run(code: str, names: dict[str, Any]) -> Any:
    """The value of the last line, as a notebook would show it."""
    *before, last = ast.parse(code).body
    exec(compile(ast.Module(before, []), str(PAGE), "exec"), names)
    if isinstance(last, ast.Expr):
        return eval(compile(ast.Expression(last.value), str(PAGE), "eval"), names)
    exec(compile(ast.Module([last], []), str(PAGE), "exec"), names)
    return None


def shown(value: Any, number: int, folder: Path) -> str:
    """What stands below a block; a picture is written into `folder`."""
    if value is None:
        return ""
    if isinstance(value, Figure):
        name = f"tutorial-{number}.png"
        value.savefig(folder / name, dpi=80, pil_kwargs={"optimize": True})
        return f"\n![What the code above draws]({name})\n"
    return f"\n```text\n{value!r}\n```\n"


def main(check: bool) -> None:
    """Run all blocks in order, in an empty folder with the sample data."""
    page, names = PAGE.read_text(encoding="utf-8"), dict[str, Any]()
    with tempfile.TemporaryDirectory() as scratch:
        os.chdir(scratch)
        Path("sample_data").symlink_to(DOCS.parent / "sample_data")
        parts, end = [], 0
        for number, block in enumerate(_BLOCK.finditer(page), 1):
            value = run(block[1], names)
            below = shown(value, number, Path(scratch) if check else DOCS)
            if check:
                kinds = [re.findall(r"^(```text|!\[)", text, re.MULTILINE) for text in (block[0], below)]
                assert kinds[0] == kinds[1], f"block {number} shows something else than the page has: {below}"
            parts += [page[end : block.start()], f"```python\n{block[1]}```\n", below]
            end = block.end()
    if not check:
        PAGE.write_text("".join([*parts, page[end:]]), encoding="utf-8")


if __name__ == "__main__":
    main("--check" in sys.argv)
