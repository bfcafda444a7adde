"""A run's page at Weights & Biases (config.tracker='wandb'): metrics, config, results and figures.

metrics.jsonl has the same values, so a failure here ends nothing. One thread makes all calls of the
library: no slow network, missing login or full disk holds up the train loop.
"""

import importlib.util
import io
import os
import queue
import secrets
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from etils import epath
from ml_collections import ConfigDict
from PIL import Image

from pgs.errors import UserError
from pgs.utils.distributed import print_once
from pgs.utils.files import read_json, write_json

FILE = 'tracker.json'  # in the workdir: the id of the run's page, which a resumed run continues
PROJECT = 'clip-pgs'  # unless WANDB_PROJECT names another one
FIGURES = ('masks', 'curves')
WAITING = 10_000  # lines that wait for the thread; more are dropped and counted
PATIENCE = 5.0  # seconds that a run that stops waits for the thread
PATIENCE_AT_END = 30.0  # the same for a complete run, whose figures are sent last
T = TypeVar('T')


def check(name: str) -> None:
    """Raises UserError if the library of config.tracker is not installed."""
    if not name:
        return
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:  # a folder ./wandb has a spec, but no file
        raise UserError(
            f'config.tracker={name} needs a package that is not installed: '
            f"pip install -r requirements-{name}.txt, or --config.tracker=''"
        )


class Tracker:
    """Sends what a run writes to its page, in a thread of its own.

    Attributes:
      failed: number of calls that failed; the first one is reported when it happens.
    """

    def __init__(self, config: ConfigDict, workdir: epath.Path):
        self.failed, self._dropped, self._complete = 0, 0, False
        self._queue: queue.Queue[Callable[[Any], None] | None] = queue.Queue(WAITING)
        open_page = partial(open_wandb, config.to_dict(), workdir)
        self._thread = threading.Thread(
            target=self._work, args=(open_page,), name='tracker', daemon=True
        )
        self._thread.start()

    def write(self, step: int, scalars: dict[str, float]) -> None:
        """Hands scalars to the thread."""
        self._put(lambda page: page.log({'step': step} | scalars))

    def finish(self, results: dict[str, Any], workdir: epath.Path) -> None:
        """Hands results.json and the figures of a complete run to the thread."""
        self._complete = True
        self._put(lambda page: send_results(page, results, workdir))

    def close(self) -> None:
        """Waits for the thread, at most PATIENCE_AT_END, and reports what was not sent."""
        self._put(None)
        self._thread.join(PATIENCE_AT_END if self._complete else PATIENCE)
        if self._thread.is_alive():
            print_once(
                'warning: the tracker has not taken everything yet, and the run does not wait for '
                'it: `wandb sync` of the folders wandb/*run-* in the workdir sends the rest'
            )
        if self.failed > 1 or self._dropped:
            print_once(
                f'warning: {self.failed} calls of the tracker failed, {self._dropped} were dropped'
            )

    def _put(self, send: Callable[[Any], None] | None) -> None:
        try:
            self._queue.put_nowait(send)
        except queue.Full:
            self._dropped += 1

    def _work(self, open_page: Callable[[], Any]) -> None:
        page = self._try(open_page)
        while (send := self._queue.get()) is not None:
            if page is not None:
                self._try(partial(send, page))
        if page is not None:
            self._try(lambda: page.finish(exit_code=0 if self._complete else 1))

    def _try(self, call: Callable[[], T]) -> T | None:
        try:
            return call()
        except Exception as error:  # the library's own, or OSError
            self.failed += 1
            if self.failed == 1:
                reason = (str(error).strip() or repr(error)).splitlines()[0]
                print_once(
                    f'warning: the tracker failed ({reason}): the run goes on, metrics.jsonl has '
                    'every value'
                )
            return None


def start(config: ConfigDict, workdir: epath.Path) -> Tracker | None:
    """The tracker of config.tracker; None if there is none."""
    return Tracker(config, workdir) if config.tracker else None


def open_wandb(config: dict[str, Any], workdir: epath.Path) -> Any:
    """A new page, or that of the run that is resumed.

    Files go to workdir/wandb, or to the folder of WANDB_DIR; those of a workdir in a bucket go to
    ./wandb, because the library writes to local disks only.

    Raises:
      OSError, UserError: as page_id; no login, which the library would ask for on the terminal.
      Exception: of the library.
    """
    import wandb

    settings = wandb.Settings(silent=True, console='off', finish_timeout=PATIENCE_AT_END)
    if wandb.setup(settings).settings.mode == 'online' and not wandb.login(
        prompt=False, verify=False
    ):
        raise UserError('no login: `wandb login`, WANDB_API_KEY=KEY or WANDB_MODE=offline')
    is_local = '://' not in os.fspath(workdir)
    page = wandb.init(
        id=page_id(workdir),
        resume='allow',
        project=os.environ.get('WANDB_PROJECT', PROJECT),
        name=os.environ.get('WANDB_NAME', workdir.name),
        dir=os.environ.get('WANDB_DIR') or (os.fspath(workdir) if is_local else None),
        config=config,
        allow_val_change=True,  # some keys may differ when a run resumes
        settings=settings,
    )
    page.define_metric('*', step_metric='step')
    print_once(f'Tracked by wandb in {page.dir if page.offline else page.url}')
    return page


def page_id(workdir: epath.Path) -> str:
    """The id of a run's page, kept in its workdir.

    Raises:
      OSError, UserError: FILE cannot be written, or it is damaged.
    """
    path = workdir / FILE
    if path.exists():
        try:
            return str(read_json(path)['wandb'])
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f'{path} is damaged: delete it for a new page') from error
    name = secrets.token_hex(8)
    write_json(path, {'wandb': name})
    return name


def send_results(page: Any, results: dict[str, Any], workdir: epath.Path) -> None:
    """results.json as a file and as the page's summary, and the figures."""
    import wandb

    copy = Path(page.dir) / 'results.json'
    copy.write_bytes((workdir / 'results.json').read_bytes())
    page.save(os.fspath(copy), base_path=page.dir, policy='now')
    page.summary.update({f'results/{name}': value for name, value in results.items()})
    figures = {
        f'figures/{name}': wandb.Image(
            Image.open(io.BytesIO((workdir / 'figures' / f'{name}.png').read_bytes()))
        )
        for name in FIGURES
    }
    page.log({'step': results['step']} | figures)
