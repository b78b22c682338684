"""Ways in which a file gets damaged, for property tests of whoever reads it."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import strategies as st


@dataclass(frozen=True)
class Damage:
    """`drop` bytes at `at` are replaced by `put`; whatever lies before and behind is untouched."""

    at: int
    drop: int
    put: bytes

    def of(self, content: bytes) -> bytes:
        return content[: self.at] + self.put + content[self.at + self.drop :]


def truncations(content: bytes) -> st.SearchStrategy[Damage]:
    return places(content).map(lambda at: Damage(at, len(content) - at, b""))


def flips(content: bytes) -> st.SearchStrategy[Damage]:
    """One byte is another one."""
    return st.tuples(places(content), st.integers(1, 255)).map(
        lambda flip: Damage(flip[0], 1, bytes([content[flip[0]] ^ flip[1]]))
    )


def splices(content: bytes, longest: int = 4000) -> st.SearchStrategy[Damage]:
    """A slice is lost, or doubled, or another slice stands in its place."""
    lengths = st.integers(0, longest)
    return st.tuples(places(content), lengths, places(content), lengths).map(
        lambda s: Damage(s[0], s[1], content[s[2] : s[2] + s[3]])
    )


def damages(content: bytes) -> st.SearchStrategy[Damage]:
    return truncations(content) | flips(content) | splices(content)


def places(content: bytes) -> st.SearchStrategy[int]:
    """Anywhere, and as often near the beginning, where what the rest means is said."""
    return st.integers(0, len(content) - 1) | st.integers(0, min(len(content) - 1, 1200))
