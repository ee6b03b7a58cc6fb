"""The site that ``make docs`` builds."""

import importlib.util
import re
import subprocess
import sys

import pytest

from tests.docs.blocks import PAGES, ROOT

MISSING = importlib.util.find_spec("mkdocs") is None


@pytest.mark.skipif(MISSING, reason="mkdocs is not installed: pip install --group docs")
def test_it_builds_without_a_warning_and_loads_nothing_from_elsewhere(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr  # --quiet would hide them, and let them pass
    for page in PAGES:
        built = (tmp_path / page.relative_to(ROOT / "docs")).with_suffix(".html").read_text("utf-8")
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//[^\"]*\.(?:js|css|woff2?|png|svg)", built), page.name
        assert not re.search(r"<script[^>]+src=\"(?:https?:)?//|@import", built), page.name
    assert (tmp_path / "images" / "how-it-works.svg").exists()
