"""What a pool's traffic has taught its autoscaler, as bytes that outlive the process. Pure.

Kept are the sums of every stance, in all and while a period was found (`adapting.py`), and the
seasons (`rhythm.py`): what takes hours to weeks to learn. What the policy remembers from minute to
minute is not: a restart shrinks nothing for one quiet window, whatever was known before. The bytes
may come from anywhere, so every value that is read is checked. Fields of an older or newer release
are passed over.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import msgspec
import numpy as np

from embedfleet.autoscaling import cycle, rhythm
from embedfleet.autoscaling.adapting import Experience, Sums, Trial
from embedfleet.autoscaling.cycle import Cycle
from embedfleet.autoscaling.stance import Stance
from embedfleet.vocabulary import EmbedfleetError

FORMAT, VERSION = "embedfleet-learned", 2
MOST_BYTES = 2**20
"""More is none of these files: a week's seasons with three rates a bucket have some 25 kB."""

Amount = Annotated[float, msgspec.Meta(ge=0.0, le=1e21)]
"""Up to what the highest rate that is believed comes to, the last twelve hours counting most."""
Cell = Annotated[tuple[Amount, ...], msgspec.Meta(max_length=rhythm.KEPT)]


class LearnedError(EmbedfleetError):
    """Bytes that hold nothing that was learned, or what another version wrote."""


class _Header(msgspec.Struct, frozen=True):
    format: str
    version: int


class _Sums(msgspec.Struct, frozen=True):
    stance: Stance
    replica_s: Amount
    late: Amount


class _Trial(msgspec.Struct, frozen=True):
    tokens: Amount
    texts: Amount
    seconds: Amount
    replica_s: tuple[Amount, ...]
    late: tuple[Amount, ...]
    """Of the stances of `_Kept.sums`, in their order."""


class _Kept(_Header, frozen=True):
    tokens: Amount
    seconds: Amount
    followed: Stance | None
    sums: tuple[_Sums, ...]
    seasons: dict[str, tuple[Cell, ...]]
    texts: Amount = 0.0
    trial: _Trial | None = None
    lately: Annotated[list[Amount], msgspec.Meta(max_length=cycle.KEPT)] = []
    """Rates of the buckets of `Cycle`."""
    lately_until: Annotated[int, msgspec.Meta(ge=-(2**53), le=2**53)] = 0
    """Number of the bucket after them."""


def kept(experience: Experience) -> bytes:
    """What is worth keeping, as JSON of some 50 kB."""
    lately = experience.cycle
    return msgspec.json.encode(
        _Kept(
            FORMAT,
            VERSION,
            experience.tokens,
            experience.seconds,
            experience.stance,
            tuple(_Sums(each.stance, each.replica_s, each.late) for each in experience.sums),
            {name: season.cells for name, season in experience.seasons.items()},
            experience.texts,
            None if experience.trial is None else _tried(experience.trial),
            [float(f"{rate:.4g}") for rate in lately.rates],
            lately.bucket or 0,
        )
    )


def _tried(trial: Trial) -> _Trial:
    return _Trial(
        trial.tokens,
        trial.texts,
        trial.seconds,
        tuple(trial.replica_s.round(1).tolist()),
        tuple(trial.late.round(1).tolist()),
    )


def restored(data: bytes) -> Experience:
    """An experience that goes on from what was kept. LearnedError with what is wrong with it.

    Seasons of another length or width of bucket than today's begin anew.
    """
    if len(data) > MOST_BYTES:
        raise LearnedError(f"it has {len(data):,} bytes, more than {MOST_BYTES:,}")
    try:
        header = msgspec.json.decode(data, type=_Header)
        if (header.format, header.version) != (FORMAT, VERSION):
            raise LearnedError(
                f"format {header.format!r}, version {header.version}; this reads {FORMAT!r}, "
                f"version {VERSION}"
            )
        told = msgspec.json.decode(data, type=_Kept)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LearnedError(str(error)) from error
    seasons = {
        name: replace(season, cells=cells)
        if len(cells := told.seasons.get(name, ())) == len(season.cells)
        else season
        for name, season in rhythm.empty().items()
    }
    trial = told.trial
    if trial is not None and not len(trial.replica_s) == len(trial.late) == len(told.sums):
        raise LearnedError(f"the trial of a period is not one of {len(told.sums)} stances")
    return Experience(
        stance=told.followed,
        before=tuple(Sums(each.stance, each.replica_s, each.late) for each in told.sums),
        seasons=seasons,
        cycle=Cycle.of(told.lately, told.lately_until),
        tokens=told.tokens,
        texts=told.texts,
        trial=None
        if trial is None
        else Trial(
            np.array(trial.replica_s),
            np.array(trial.late),
            trial.tokens,
            trial.texts,
            trial.seconds,
        ),
        seconds=told.seconds,
    )
