"""docs/frameworks.md names every adapter, and the releases that the tests ran with."""

import re
from importlib.metadata import distributions
from pathlib import Path

from .conftest import FRAMEWORKS

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "frameworks.md").read_text(encoding="utf-8")
TESTED = {"TRL": "trl", "OpenRLHF": "openrlhf", "SkyRL": "skyrl", "Trinity-RFT": "trinity-rft"}


def test_every_adapter_has_its_place():
    for path in (REPOSITORY / "verl_lad" / "adapters").glob("*/__init__.py"):
        assert re.search(rf"^\| \[{path.parent.name}", PAGE, re.IGNORECASE | re.MULTILINE), path.parent.name


def test_the_first_release_in_a_row_is_the_one_that_make_install_installs():
    installed = {found.name: found.version for found in distributions(path=[str(FRAMEWORKS)])}
    for title, name in TESTED.items():
        row = re.search(rf"^\| \[{title}\]\S* \| (\S+)", PAGE, re.MULTILINE)
        assert row is not None
        assert row[1].rstrip(",") == installed[name], title
