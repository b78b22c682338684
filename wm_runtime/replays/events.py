"""The events of a Slippi replay as tables: what each version of the format appended to each of them.

A layout is version → "name type, …" in the order of the bytes; a field of the field table goes by its name there, and
bytes whose meaning nobody knows by `_offset`. All numbers are big-endian, nothing is aligned. Source: SPEC.md of
project-slippi/slippi-wiki, checked against the payload sizes of real replays from 0.1.0 to 3.19.1 and against what
peppi-py 0.8.6 reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

Version = tuple[int, int, int]
Layout = Mapping[tuple[int, int], str]

PAYLOADS = 0x35
"""Command byte of the list of payload sizes, which comes before all other events."""
PORTS = 4


@dataclass(frozen=True)
class Event:
    """A kind of event: its command byte, the version that added it, and its layout."""

    command: int
    added: tuple[int, int]
    layout: Layout


_FIGHTER = "frame i4, port u1, is_follower u1"

EVENTS: Mapping[str, Event] = {
    "game_start": Event(0x36, (0, 1), {
        (0, 1): "version 4u1, bitfield 4u1, _9 2u1, bomb_rain u1, _c u1, is_teams u1, _e 2u1, item_spawn_frequency i1,"
                "self_destruct_score i1, _12 u1, stage u2, timer u4, _19 15u1, item_spawn_bitfield 5u1, _2d 8u1,"
                "damage_ratio f4, _39 44u1, players 216u1, random_seed u4",
        (1, 0): "controller_fixes 8u4",
        (1, 3): "name_tags 4S16",
        (1, 5): "is_pal u1",
        (2, 0): "is_frozen_stadium u1",
        (3, 7): "minor_scene u1, major_scene u1",
        (3, 9): "names 4S31, codes 4S10",
        (3, 11): "user_ids 4S29",
        (3, 12): "language u1",
        (3, 14): "match_id S51, match_game u4, match_tiebreak u4",
    }),
    "pre": Event(0x37, (0, 1), {
        (0, 1): f"{_FIGHTER}, random_seed u4, action u2, x f4, y f4, facing f4, main_x f4, main_y f4, c_x f4, c_y f4,"
                "shoulder f4, processed_buttons u4, buttons u2, trigger_l f4, trigger_r f4",
        (1, 2): "raw_x i1",
        (1, 4): "percent f4",
        (3, 15): "raw_y i1",
        (3, 17): "raw_c_x i1, raw_c_y i1",
    }),
    "post": Event(0x38, (0, 1), {
        (0, 1): f"{_FIGHTER}, character u1, action u2, x f4, y f4, facing f4, percent f4, shield f4, last_attack u1,"
                "combo_count u1, last_hit_by u1, stocks u1",
        (0, 2): "state_age f4",
        (2, 0): "flags_1 u1, flags_2 u1, flags_3 u1, flags_4 u1, flags_5 u1, misc_as f4, airborne u1, ground u2,"
                "jumps u1, l_cancel u1",
        (2, 1): "hurtbox u1",
        (3, 5): "self_x_air f4, self_y f4, knockback_x f4, knockback_y f4, self_x_ground f4",
        (3, 8): "hitlag f4",
        (3, 11): "animation u4",
        (3, 16): "instance_hit_by u2, instance u2",
    }),
    "game_end": Event(0x39, (0, 1), {
        (0, 1): "method u1",
        (2, 0): "lras i1",
        (3, 13): "placements 4i1",
    }),
    "frame_start": Event(0x3A, (2, 2), {
        (2, 2): "frame i4, random_seed u4",
        (3, 10): "scene_frame u4",
    }),
    "item": Event(0x3B, (3, 0), {
        (3, 0): "frame i4, type u2, state u1, facing f4, self_x f4, self_y f4, x f4, y f4, damage u2, timer f4,"
                "spawn_id u4",
        (3, 2): "misc_0 u1, misc_1 u1, misc_2 u1, misc_3 u1",
        (3, 6): "owner i1",
        (3, 16): "instance u2",
    }),
    "bookend": Event(0x3C, (3, 0), {
        (3, 0): "frame i4",
        (3, 7): "latest_finalized i4",
    }),
}  # fmt: skip
"""Name → event, for every event that carries a game's contents."""

_PLAYER: Layout = {
    (0, 1): "character u1, type u1, stocks u1, costume u1, _4 3u1, team_shade u1, handicap u1, team u1,"
            "name_tag_slot u1, _b u1, bitfield u1, _d 2u1, cpu_level u1, damage_start u2, damage_spawn u2, _14 4u1,"
            "offense_ratio f4, defense_ratio f4, model_scale f4",
}  # fmt: skip


def _structure(layout: Layout, version: tuple[int, ...], *first: str) -> np.dtype:
    fields = [*first, *",".join(fields for added, fields in layout.items() if added <= version).split(",")]
    return np.dtype([tuple(field.split()) for field in fields]).newbyteorder(">")  # type: ignore[misc]


PLAYER_SETUP = _structure(_PLAYER, (0, 1))
"""One of the players of `game_start.players`; there is room for two more than the console has ports."""


@lru_cache
def structure(event: str, version: Version) -> np.dtype:
    """An event as `version` writes it: `command`, then the payload. Big-endian, packed."""
    return _structure(EVENTS[event].layout, version, "command u1")


def events_of(version: Version) -> tuple[str, ...]:
    """The names of the events that `version` knows."""
    return tuple(name for name, event in EVENTS.items() if event.added <= version)
