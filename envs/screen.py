"""Pictures of matches, or a window that shows the first one. pygame is imported when something is drawn."""

from __future__ import annotations

from typing import Any

import numpy as np

from wm_envs.matches import Matches
from wm_runtime.errors import UserError

RENDER_MODES = ("rgb_array", "human")


class Screen:
    """`render_mode`: rgb_array, human, or None for no drawing. Raises UserError."""

    def __init__(self, render_mode: str | None):
        if render_mode not in (None, *RENDER_MODES):
            raise UserError(f"render_mode {render_mode!r}: choose one of {', '.join(RENDER_MODES)}, or None")
        self.render_mode = render_mode
        self._window: Any = None

    def draw(self, matches: Matches) -> tuple[np.ndarray, ...] | None:
        """A picture (H, W, 3) uint8 of each match in `rgb_array`; in `human` the window is brought up to date."""
        if self.render_mode is None:
            return None
        from wm_viewer import draw

        if self.render_mode == "rgb_array":
            return tuple(draw.render(matches.state, n, matches.controllers) for n in range(matches.num_matches))
        self._window = self._window or draw.Window()
        self._window.draw(matches.state, 0, matches.controllers)
        return None

    def stepped(self, matches: Matches) -> None:
        """In `human`, every step is shown."""
        if self.render_mode == "human":
            self.draw(matches)

    def close(self) -> None:
        if self._window is not None:
            self._window.close()
            self._window = None
