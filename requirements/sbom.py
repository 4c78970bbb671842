"""Print the bill of materials (CycloneDX 1.6, JSON) of what an installation holds.

The pinned Python packages of requirements/runtime.txt as cyclonedx-bom finds them, and what is
vendored: Swagger UI, which is in no lock. Time and serial number are left out, so that the same
commit gives the same bytes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def vendored() -> dict[str, Any]:
    """Swagger UI, with the version that tests compare its files with."""
    wanted = json.loads((ROOT / "tests/sdks/package.json").read_text(encoding="utf-8"))
    version = wanted["dependencies"]["swagger-ui-dist"]
    return {
        "type": "library",
        "bom-ref": f"swagger-ui-dist=={version}",
        "name": "swagger-ui-dist",
        "version": version,
        "purl": f"pkg:npm/swagger-ui-dist@{version}",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }


def bill() -> dict[str, Any]:
    """The whole document."""
    tool = [sys.executable, "-m", "cyclonedx_py", "requirements", "--output-reproducible"]
    options = ["--pyproject", "pyproject.toml", "--mc-type", "application", "--sv", "1.6"]
    done = subprocess.run(
        [*tool, *options, "--output-format", "JSON", "requirements/runtime.txt"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    document: dict[str, Any] = json.loads(done.stdout)
    document["components"].append(vendored())
    document["components"].sort(key=lambda each: re.sub(r"[-_.]+", "-", each["name"]).lower())
    return document


def main() -> None:
    """Print it."""
    json.dump(bill(), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
