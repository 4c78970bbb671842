"""Other autoscalers, as exact as their sources allow, to compare with.

Each is checked against values computed from its source (`tests/simulator/rivals`).
"""

from __future__ import annotations

from collections.abc import Callable

from embedfleet.simulator.rivals import aibrix, article, hpa, kpa, llm_d, ray_serve, skyserve
from embedfleet.simulator.scalers import Scaler

Maker = Callable[[int, int], Scaler]
"""Makes a policy for a fewest and a most number of replicas."""

RIVALS: dict[str, Maker] = {
    "article": article.Article,
    "article-utilisation": lambda least, most: article.Article(
        least, most, utilisation_only=True, name="article, utilisation only"
    ),
    "hpa": lambda least, most: hpa.Hpa(least=least, most=most),
    "hpa-rate": lambda least, most: hpa.HpaRate(least=least, most=most),
    "kpa": lambda least, most: kpa.Kpa(least=least, most=most),
    "kpa-600": lambda least, most: kpa.Kpa(
        least=least, most=most, delay_s=600.0, name="Knative KPA, 600 s delay"
    ),
    "ray": lambda least, most: ray_serve.RayServe(least=least, most=most),
    "skyserve": lambda least, most: skyserve.SkyServe(least=least, most=most),
    "aibrix": lambda least, most: aibrix.Apa(least=least, most=most),
    "llm-d-queue": lambda least, most: llm_d.Queue(least=least, most=most),
    "llm-d-tokens": lambda least, most: llm_d.Tokens(least=least, most=most),
    "llm-d-slo": lambda least, most: llm_d.Slo(least=least, most=most),
}
"""By the name that `--policy` takes."""
