"""A stand-in of the library wandb, for the tests of the tracker."""

import importlib.machinery
import sys
import types
from pathlib import Path

import pytest


class Page:
    """As wandb's Run: it keeps what it is given.

    Attributes:
      options: of init.
      lines: of log.
      saved: names of the files of save.
      exit_code: of finish; None before.
    """

    offline, url = False, 'https://example.org/page'

    def __init__(self, folder: Path, options: dict):
        self.dir, self.options = str(folder), options
        self.lines, self.saved, self.summary, self.exit_code = [], [], {}, None

    def define_metric(self, name: str, step_metric: str) -> None:
        assert (name, step_metric) == ('*', 'step')

    def log(self, line: dict) -> None:
        self.lines.append(line)

    def save(self, path: str, *, base_path: str, policy: str) -> None:
        assert policy == 'now'
        self.saved.append(str(Path(path).relative_to(base_path)))

    def finish(self, exit_code: int) -> None:
        self.exit_code = exit_code


def install(patch: pytest.MonkeyPatch, folder: Path) -> types.ModuleType:
    """Puts a stand-in in the library's place; its `pages` has the pages that were opened.

    Args:
      patch: takes it away again.
      folder: an existing one, for the files of the pages.
    """
    module = types.ModuleType('wandb')
    module.__spec__ = importlib.machinery.ModuleSpec('wandb', None, origin='stand-in')
    module.pages = []

    def init(**options) -> Page:
        module.pages.append(Page(folder, options))
        return module.pages[-1]

    settings = types.SimpleNamespace(mode='online')
    module.init, module.Settings, module.Image = init, dict, lambda image: image.size
    module.setup = lambda _: types.SimpleNamespace(settings=settings)
    module.login = lambda **_: True
    patch.setitem(sys.modules, 'wandb', module)
    return module
