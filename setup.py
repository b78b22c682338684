"""Adds melee_world_model.pth to every install, editable or not (see envs/autoload.py). All else: pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """The packages, and the .pth file beside them."""

    def run(self) -> None:
        super().run()
        folder = self.get_finalized_command("install").install_purelib if self.editable_mode else self.build_lib
        Path(folder, "melee_world_model.pth").write_text("import wm_envs.autoload; wm_envs.autoload.install()\n")


setup(cmdclass={"build_py": BuildPy})
