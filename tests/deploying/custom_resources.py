"""Schemas of custom resources, of those fields that we use.

Written from the definitions of KEDA 2.18 and of the Prometheus operator, which come in no package;
a field that is not here is an error, so a new one is looked up before it is used.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
COUNT: Schema = {"type": "integer", "minimum": 0}
DURATION: Schema = {"type": "string", "pattern": r"^\d+(ms|s|m|h)$"}
LABELS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def many(item: Schema) -> Schema:
    return {"type": "array", "items": item, "minItems": 1}


def resource(spec: Schema) -> Schema:
    metadata = fields({"name": TEXT, "namespace": TEXT, "labels": LABELS})
    return fields({"apiVersion": TEXT, "kind": TEXT, "metadata": metadata, "spec": spec})


DIRECTION = fields(
    {
        "policies": many(
            fields(
                {
                    "type": {"enum": ["Pods", "Percent"]},
                    "value": {"type": "integer", "minimum": 1},
                    "periodSeconds": {"type": "integer", "minimum": 1, "maximum": 1800},
                }
            )
        )
    },
    {
        "stabilizationWindowSeconds": {"type": "integer", "minimum": 0, "maximum": 3600},
        "selectPolicy": {"enum": ["Max", "Min", "Disabled"]},
        "tolerance": {"type": "string", "pattern": r"^\d+(\.\d+)?m?$"},
    },
)
PROMETHEUS_TRIGGER = fields(
    {
        "type": {"const": "prometheus"},
        "metadata": fields(
            # Everything in it is text for KEDA, numbers and booleans too.
            {
                "serverAddress": {"type": "string", "pattern": "^https?://"},
                "query": TEXT,
                "threshold": TEXT,
            },
            {"ignoreNullValues": {"enum": ["true", "false"]}, "activationThreshold": TEXT},
        ),
    },
    {"name": TEXT, "metricType": {"enum": ["AverageValue", "Value"]}},
)
SCALED_OBJECT = resource(
    fields(
        {
            "scaleTargetRef": fields({"name": TEXT}, {"apiVersion": TEXT, "kind": TEXT}),
            "triggers": many(PROMETHEUS_TRIGGER),
        },
        {
            "minReplicaCount": COUNT,
            "maxReplicaCount": COUNT,
            "pollingInterval": COUNT,
            "fallback": fields(
                {"failureThreshold": COUNT, "replicas": COUNT},
                {
                    "behavior": {
                        "enum": [
                            "static",
                            "currentReplicas",
                            "currentReplicasIfHigher",
                            "currentReplicasIfLower",
                        ]
                    }
                },
            ),
            "advanced": fields(
                {
                    "horizontalPodAutoscalerConfig": fields(
                        {"behavior": fields({"scaleUp": DIRECTION, "scaleDown": DIRECTION})}
                    )
                }
            ),
        },
    )
)

RELABELING = fields(
    {"targetLabel": TEXT},
    {"replacement": TEXT, "sourceLabels": many(TEXT), "regex": TEXT, "action": TEXT},
)
SCRAPE = fields(
    {"port": TEXT, "path": TEXT, "interval": DURATION, "scrapeTimeout": DURATION},
    {"relabelings": many(RELABELING), "honorLabels": {"type": "boolean"}},
)
CHOICE: dict[str, Schema] = {
    "selector": fields({"matchLabels": LABELS}),
    "namespaceSelector": fields({"matchNames": many(TEXT)}),
}
RULE: Schema = {
    "oneOf": [
        fields({"record": TEXT, "expr": TEXT}, {"labels": LABELS}),
        fields(
            {"alert": TEXT, "expr": TEXT},
            {"for": DURATION, "labels": LABELS, "annotations": LABELS},
        ),
    ]
}
SCHEMAS: dict[tuple[str, str], Schema] = {
    ("keda.sh/v1alpha1", "ScaledObject"): SCALED_OBJECT,
    ("monitoring.coreos.com/v1", "ServiceMonitor"): resource(
        fields({**CHOICE, "endpoints": many(SCRAPE)})
    ),
    ("monitoring.coreos.com/v1", "PodMonitor"): resource(
        fields({**CHOICE, "podMetricsEndpoints": many(SCRAPE)})
    ),
    ("monitoring.coreos.com/v1", "PrometheusRule"): resource(
        fields(
            {"groups": many(fields({"name": TEXT, "rules": many(RULE)}, {"interval": DURATION}))}
        )
    ),
}
