"""Registers the environment as soon as anyone imports gymnasium.

Gymnasium 1.0 stopped reading the `gymnasium.envs` entry points that this package declares. A line in
`melee_world_model.pth` (see setup.py) runs `install` when the interpreter starts; nothing else is imported until
gymnasium is.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType


class _Finder(MetaPathFinder):
    """Waits for `gymnasium`, and has its loader register the environment at the end."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "gymnasium":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None:
            spec.loader = _Registering(spec.loader)
        return spec


class _Registering(Loader):
    def __init__(self, loader: Loader):
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        from wm_envs.registration import register

        register()

    def __getattr__(self, name: str) -> object:
        return getattr(self._loader, name)


def install() -> None:
    """Begins to wait for gymnasium; registers at once if it is there already."""
    if "gymnasium" in sys.modules:
        from wm_envs.registration import register

        register()
    else:
        sys.meta_path.insert(0, _Finder())
