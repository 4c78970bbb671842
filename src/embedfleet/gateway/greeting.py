"""What a gateway says on standard output once it serves.

Decides the words. Refuses to know when.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

GREETING = """\
embedfleet serves {models} at {url}/v1 (fleet and metrics: {admin})

  curl {url}/v1/embeddings -H 'content-type: application/json'{key} \\
    -d '{{"model": "{model}", "input": "How are you today?"}}'
"""
WITH_A_KEY = " \\\n    -H 'authorization: Bearer YOUR_KEY'"


def greet(models: Sequence[str], urls: Sequence[str], *, keys: bool) -> None:
    """Write it; `urls` are the public one and, where there is one, that of the admin address."""
    text = GREETING.format(
        models=", ".join(models),
        url=urls[0],
        admin=urls[1] if len(urls) > 1 else "off",
        model=models[0],
        key=WITH_A_KEY if keys else "",
    )
    sys.stdout.write(text)
    sys.stdout.flush()
