"""Writes overlays/monitoring/rules.yaml: the rules of deploy/monitoring as PrometheusRule objects.

`make docs` runs it; a test fails when the file is out of date.
"""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent
MONITORING = HERE.parent / "monitoring"
RULES = HERE / "overlays" / "monitoring" / "rules.yaml"
LABELS = """\
    app.kubernetes.io/name: embedfleet
    app.kubernetes.io/part-of: embedfleet
    app.kubernetes.io/component: monitoring
"""
HEAD = "# Written by write_monitoring.py from deploy/monitoring/rules: `make docs`.\n"


def rules() -> str:
    """One PrometheusRule for each file of rules."""
    documents = []
    for file in sorted((MONITORING / "rules").glob("*.yml")):
        groups = file.read_text(encoding="utf-8").partition("groups:\n")[2]
        documents.append(
            "apiVersion: monitoring.coreos.com/v1\n"
            "kind: PrometheusRule\n"
            f"metadata:\n  name: embedfleet-{file.stem}\n  namespace: embedfleet\n  labels:\n"
            f"{LABELS}    release: kube-prometheus-stack\n"
            f"spec:\n  groups:\n{_indented(groups, 2)}"
        )
    return HEAD + "---\n".join(documents)


def _indented(text: str, by: int) -> str:
    lines = (f"{' ' * by}{line}".rstrip() for line in text.rstrip("\n").split("\n"))
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the file."""
    RULES.write_text(rules(), encoding="utf-8")


if __name__ == "__main__":
    main()
