"""What is read straight from a replay's bytes is what peppi-py reads of them; what is in doubt is left to that."""

from __future__ import annotations

import io
import json
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import Damage, damages
from hypothesis import event, example, given, settings

from synthetic import GAME_SET, synthetic_game
from wm_runtime.replays.game import Game
from wm_runtime.replays.layout import StoredGame
from wm_runtime.replays.located import LocatedFrames
from wm_runtime.replays.parsed import parse
from wm_runtime.replays.reasons import LeftOut
from wm_runtime.replays.slp import ReadOptions, game_of, ordinary
from wm_runtime.replays.writer import Oddities, write_slp
from wm_runtime.schema import FIRST_FRAME, ITEM_FIELDS

REPLAYS = Path(__file__).parents[3] / "shared" / "replays"
GAME = synthetic_game(7, 300)
GAME = replace(GAME, info=replace(GAME.info, end_method=GAME_SET))
LAST = FIRST_FRAME + len(GAME) - 1


def with_items() -> Game:
    n = np.arange(40)
    items = {f.name: (n % 7).astype(f.store) for f in ITEM_FIELDS}
    items["frame"] = np.sort(n * n % 170).astype(np.int32)
    items["owner"] = (n % 3 - 1).astype(np.int8)
    return replace(GAME, items=items)


def bytes_of(game: Game, **options: object) -> bytes:
    file = io.BytesIO()
    write_slp(file, game, **options)  # type: ignore[arg-type]
    return file.getvalue()


Outcome = tuple[str, bytes, dict[str, bytes]] | str


def outcome(replay) -> Outcome:
    """Everything that a game is stored as, or why it is left out."""
    try:
        game: StoredGame = game_of(replay, "test", ReadOptions())
    except LeftOut as reason:
        return str(reason)
    return repr(game.info), game.records.tobytes(), {name: column.tobytes() for name, column in game.items.items()}


def parsed(data: bytes) -> Outcome:
    try:
        return outcome(parse(data))
    except LeftOut as reason:
        return str(reason)


@pytest.mark.parametrize("version", [(3, 8, 0), (3, 12, 0), (3, 16, 0), (3, 17, 0)], ids=str)
@pytest.mark.parametrize("game", [GAME, with_items()], ids=["no items", "items"])
def test_an_ordinary_game_is_located_and_read_as_by_peppi(version, game: Game) -> None:
    data = bytes_of(game, version=version, oddities=Oddities(resent=((10, 3), (40, 7), (LAST, 1))))
    located = ordinary(data)
    assert located is not None
    assert isinstance(located.frames, LocatedFrames)
    assert not isinstance(outcome(located), str)
    assert outcome(located) == parsed(data)


@pytest.mark.parametrize(
    "odd",
    [
        Oddities(third_player=True), Oddities(ice_climbers=0), Oddities(absent=(50,)), Oddities(cut=True),
        Oddities(missing=tuple(range(FIRST_FRAME, LAST + 1))),
    ],
    ids=["three players", "Ice Climbers", "a player missing", "cut", "no frames"],
)  # fmt: skip
def test_what_is_not_ordinary_is_left_to_peppi(odd: Oddities) -> None:
    assert ordinary(bytes_of(GAME, oddities=odd)) is None


CONTENT = bytes_of(with_items(), oddities=Oddities(resent=((10, 3),)))
FIRST_PRE = CONTENT.index(b"\x37" + FIRST_FRAME.to_bytes(4, "big", signed=True))


@given(damage=damages(CONTENT))
@example(damage=Damage(FIRST_PRE, 1, b"6"))
@settings(max_examples=300, deadline=None)
def test_of_a_damaged_file_no_other_frames_are_located_than_peppi_reads(damage: Damage) -> None:
    data = damage.of(CONTENT)
    located = ordinary(data)
    event("located" if located else "left to peppi")
    if located:
        assert outcome(located) == parsed(data)


SOME = ("real.slppack", "broken.slppack", "val-02.slppack")


def packs(pattern: str) -> list[Path]:
    return sorted((REPLAYS / "packs").glob(pattern))


@pytest.mark.skipif(not REPLAYS.exists(), reason="no real replays beside the repository")
@pytest.mark.parametrize("pattern", [*SOME, pytest.param("*.slppack", marks=pytest.mark.slow)])
@pytest.mark.timeout(900)
def test_real_replays_are_located_and_read_as_by_peppi(pattern: str) -> None:
    sys.path.insert(0, str(REPLAYS))
    from slppack import unpack

    manifest = json.loads((REPLAYS / "manifest.json").read_text())
    taken = {name for split in manifest.values() for name, row in split.items() if row["expected"] == "taken"}
    seen: Counter[str] = Counter()
    for pack in packs(pattern):
        for info, data in unpack(pack):
            located = ordinary(data)
            if located:
                assert outcome(located) == parsed(data), info["name"]
            if info["name"] in taken:
                seen["located" if located else "left to peppi"] += 1
    assert seen["located"] >= 5 * seen["left to peppi"]
