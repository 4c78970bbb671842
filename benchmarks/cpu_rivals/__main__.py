"""Make the environments of all contenders, or of those that are named.

python -m benchmarks.cpu_rivals [--folder build/cpu-rivals] [NAME...]
"""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks.cpu_rivals.environments import DEFAULT_FOLDER, REQUIREMENTS, make, size_mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER)
    parser.add_argument("names", nargs="*", choices=[*REQUIREMENTS, []], help="all by default")
    options = parser.parse_args()
    for name in options.names or REQUIREMENTS:
        make(options.folder, name)
        print(f"{name}: {size_mib(options.folder, name):,.0f} MiB", flush=True)


if __name__ == "__main__":
    main()
