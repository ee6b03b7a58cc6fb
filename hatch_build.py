"""Compiles what runs for every message with mypyc, when asked to: ``HATCH_BUILD_HOOKS_ENABLE=1 pip install .``.

Without the variable, and in an editable install, the package is the same source, interpreted. The compiler works on a
copy: compiled modules beside their source would hide every later change of it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface):
    """The hook ``custom`` of the wheel; its option ``modules`` are paths below ``src``."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Put the compiled modules beside their sources in the wheel. Raises what the compiler's failure raises."""
        if version == "editable":
            return
        self.folder = Path(tempfile.mkdtemp(prefix="pystrands-build-"))
        source = self.folder / "src"
        shutil.copytree(Path(self.root, "src"), source, ignore=shutil.ignore_patterns("__pycache__"))
        command = [sys.executable, "-m", "mypyc", "--strict", *self.config["modules"]]
        optimised = {"MYPYC_OPT_LEVEL": "3", "MYPYC_DEBUG_LEVEL": "0"}
        subprocess.run(command, cwd=source, env={**os.environ, **optimised}, stdout=subprocess.DEVNULL, check=True)  # noqa: S603 - our own
        suffix = ".pyd" if os.name == "nt" else ".so"
        compiled = [*source.glob(f"*{suffix}"), *source.glob(f"pystrands/**/*{suffix}")]
        build_data["force_include"].update({str(path): str(path.relative_to(source)) for path in compiled})
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:  # noqa: ARG002 - its signature
        """Throw the copy away."""
        if version != "editable":
            shutil.rmtree(self.folder, ignore_errors=True)
