"""Why a file is left out of a dataset."""

from __future__ import annotations

REASONS = {
    "unreadable": "not a replay, or damaged",
    "version": "recorded by a version without velocities and hitlag (before 3.8)",
    "players": "not exactly two players, or teams",
    "ice_climbers": "has a follower (Ice Climbers)",
    "cpu": "has a computer player",
    "items": "items are on",
    "stage": "not one of the six tournament stages",
    "gaps": "frames are missing",
    "non_finite": "has values that are not finite",
    "values": "has values outside the field table",
    "filtered": "not asked for (--stages, --characters, --min-version)",
    "duplicate": "the same file (MD5) again",
    "same_game": "the same game in another file (saved by the other player, or saved again)",
}
"""Why a file is left out: key → what it means."""


class LeftOut(Exception):
    """A file that does not belong in a dataset. `reason` is a key of REASONS, `detail` what exactly was seen."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason
