"""The schema of Grafana's dashboards, of those fields that we use.

Written from the dashboard kind of Grafana 11 (schemaVersion 39), whose server comes in no package:
a field that is not here is an error, so a new one is looked up before it is used. Grafana
itself passes over what it does not know, and shows an empty panel.
"""

from __future__ import annotations

from typing import Any

Schema = dict[str, Any]

TEXT: Schema = {"type": "string", "minLength": 1}
SWITCH: Schema = {"type": "boolean"}
UNITS = [
    *("none", "percent", "percentunit", "s", "bytes", "decmbytes", "cps", "reqps"),
    *("watt", "celsius"),
]
"""Ids of Grafana's formats for values; any other word would be printed behind the number."""


def fields(required: dict[str, Schema], optional: dict[str, Schema] | None = None) -> Schema:
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": list(required),
        "additionalProperties": False,
    }


def many(item: Schema, least: int = 1) -> Schema:
    return {"type": "array", "items": item, "minItems": least}


SOURCE = fields({"type": {"const": "prometheus"}, "uid": {"const": "${source}"}})
PLACE = fields(
    {
        "x": {"type": "integer", "minimum": 0, "maximum": 23},
        "y": {"type": "integer", "minimum": 0},
        "w": {"type": "integer", "minimum": 1, "maximum": 24},
        "h": {"type": "integer", "minimum": 1},
    }
)
TARGET = fields(
    {
        "refId": {"type": "string", "pattern": "^[A-Z]+$"},
        "expr": TEXT,
        "legendFormat": {"type": "string"},
        "datasource": SOURCE,
    },
    {"format": {"enum": ["time_series", "table", "heatmap"]}, "instant": SWITCH, "range": SWITCH},
)
HEAD: dict[str, Schema] = {"title": TEXT, "gridPos": PLACE, "id": {"type": "integer", "minimum": 1}}
PANEL: Schema = {
    "oneOf": [
        fields(
            {"type": {"const": "row"}, **HEAD},
            {"collapsed": SWITCH, "panels": {"type": "array"}},
        ),
        fields(
            {
                "type": {"enum": ["stat", "timeseries", "state-timeline", "table"]},
                **HEAD,
                "datasource": SOURCE,
                "fieldConfig": fields(
                    {
                        "defaults": fields(
                            {"unit": {"enum": UNITS}},
                            {"min": {"type": "number"}, "max": {"type": "number"}},
                        ),
                        "overrides": {"type": "array"},
                    }
                ),
                "targets": many(TARGET),
                "description": TEXT,
                "links": many(fields({"title": TEXT, "url": TEXT}, {"targetBlank": SWITCH}), 0),
            },
            {"options": {"type": "object"}},
        ),
    ]
}
VARIABLE: Schema = {
    "oneOf": [
        fields({"type": {"const": "datasource"}, "name": TEXT, "label": TEXT, "query": TEXT}),
        fields(
            {
                "type": {"const": "textbox"},
                "name": TEXT,
                "label": TEXT,
                "query": TEXT,
                "current": fields({"text": TEXT, "value": TEXT}),
            }
        ),
        fields(
            {
                "type": {"const": "query"},
                "name": TEXT,
                "label": TEXT,
                "datasource": SOURCE,
                "query": fields({"query": TEXT, "refId": TEXT}),
                "refresh": {"enum": [0, 1, 2]},
            },
            {
                "includeAll": SWITCH,
                "multi": SWITCH,
                "allValue": TEXT,
                "current": fields({"text": TEXT, "value": TEXT}),
            },
        ),
    ]
}
ANNOTATION = fields(
    {
        "name": TEXT,
        "datasource": SOURCE,
        "enable": SWITCH,
        "iconColor": TEXT,
        "expr": TEXT,
        "titleFormat": TEXT,
        "step": {"type": "string", "pattern": r"^\d+[smh]$"},
    },
    {"tagKeys": TEXT, "textFormat": TEXT, "hide": SWITCH},
)
LINK: Schema = {
    "oneOf": [
        fields(
            {"type": {"const": "dashboards"}, "title": TEXT, "tags": many(TEXT)},
            {"asDropdown": SWITCH, "keepTime": SWITCH, "includeVars": SWITCH},
        ),
        fields({"type": {"const": "link"}, "title": TEXT, "url": TEXT}, {"targetBlank": SWITCH}),
    ]
}
DASHBOARD = fields(
    {
        "uid": {"type": "string", "pattern": r"^[\w-]{1,40}$"},
        "title": TEXT,
        "tags": many(TEXT),
        "timezone": {"enum": ["browser", "utc"]},
        "schemaVersion": {"type": "integer", "minimum": 36, "maximum": 41},
        "refresh": {"type": "string", "pattern": r"^\d+[smh]$"},
        "time": fields({"from": TEXT, "to": TEXT}),
        "templating": fields({"list": many(VARIABLE)}),
        "annotations": fields({"list": many(ANNOTATION)}),
        "links": many(LINK),
        "panels": many(PANEL),
    }
)
