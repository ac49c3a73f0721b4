"""Print the oldest versions that pyproject.toml allows, as constraints for pip: `make test-oldest` installs them."""

import tomllib
from itertools import chain
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"].values()
print("\n".join(sorted({d.replace(">=", "==") for d in chain(PROJECT["dependencies"], *EXTRAS) if ">=" in d})))
