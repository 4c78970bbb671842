"""Draws the diagram of replica states in the documentation from the transition table itself."""

from __future__ import annotations

from embedfleet.fleet.states import TRANSITIONS

PREAMBLE = """\
# States of a replica

<!-- Written by `make docs` from TRANSITIONS in src/embedfleet/fleet/states.py. -->

Every replica of a pool is in one of these states; nothing moves it but the events of this table.
It gets traffic while it is ready, and while it is suspect if no other replica is ready. A probe
that is answered moves a replica out of `starting`, and never back into traffic: that takes right
answers, of calls or of a trial ([data-path.md](data-path.md)). From every state the event
`lost` leads to `gone`, which the picture leaves out.

"""


def as_markdown() -> str:
    """The page `docs/states.md`: a Mermaid diagram and a table."""
    diagram = ["```mermaid", "stateDiagram-v2", "    [*] --> starting"]
    table = ["| state | event | leads to |", "|---|---|---|"]
    for state, row in TRANSITIONS.items():
        for event, entered in row.items():
            table.append(f"| {state} | {event} | {entered} |")
            if event.value != "lost":
                diagram.append(f"    {state} --> {entered}: {event}")
    return PREAMBLE + "\n".join([*diagram, "```", "", *table]) + "\n"
