"""Keeps compiled programs on the disk, so that a resumed run does not compile them again.

JAX's persistent compilation cache, in a folder of bounded size. JAX names an entry by a hash of the
program, the compiler's version and options and the devices, so that a stale one is never found. A
cache must not break a run: a folder that cannot be written is not used, an entry that cannot be read
is removed and compiled again, each with one line.
"""

import contextlib
import hashlib
import os
import platform
import re
import uuid
import warnings
from collections.abc import Callable
from pathlib import Path

import jax

from pgs.utils.distributed import print_once
from pgs.utils.files import absolute, reason

DEFAULT = '~/.cache/clip_pgs/xla'
VARIABLE = 'JAX_COMPILATION_CACHE_DIR'  # JAX's own setting, which is left as it is
MAX_BYTES = 2**30  # of all entries, when a program starts
MIN_SECONDS = 0.5  # programs that compile faster are not kept
PROCESSOR = ('model name', 'flags', 'CPU implementer', 'CPU part', 'Features')  # of /proc/cpuinfo
# What JAX warns of; it goes on without the entry.
FAILURE = re.compile(r"Error (reading|writing) persistent compilation cache entry for '([^']*)': ")

Show = Callable[..., None]  # as warnings.showwarning


def use(folder: str) -> None:
    """Turns the cache on, before anything is compiled and after the processes of a job have met.

    Of several processes the first one writes; all read. Programs for a CPU are in a folder of their
    own for each kind of processor, because they have its instructions.

    Args:
      folder: created if absent; gs:// too, whose size is not bounded here. '': no cache.
    """
    if not folder or os.environ.get(VARIABLE):
        return
    path = absolute(folder)
    if jax.default_backend() == 'cpu':
        path /= f'cpu-{processor()}'
    if '://' not in os.fspath(path):
        try:
            probe(Path(path))
        except OSError as error:
            print_once(
                f'warning: compiled programs are not kept in config.compile_cache={folder!r} '
                f'({reason(error)}): a resumed run compiles again'
            )
            return
        trim(Path(path), MAX_BYTES)
        warnings.showwarning = reporter(Path(path), warnings.showwarning)
    jax.config.update('jax_compilation_cache_dir', os.fspath(path))
    jax.config.update('jax_persistent_cache_min_compile_time_secs', MIN_SECONDS)


def processor() -> str:
    """A short hash of the processor's model and its instructions."""
    lines = {platform.machine(), platform.processor()}
    with contextlib.suppress(OSError):
        text = Path('/proc/cpuinfo').read_text()
        lines |= {line for line in text.splitlines() if line.startswith(PROCESSOR)}
    return hashlib.sha256('\n'.join(sorted(lines)).encode()).hexdigest()[:12]


def probe(folder: Path) -> None:
    """Creates the folder and writes a byte in it.

    Raises:
      OSError: it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f'probe-{uuid.uuid4().hex}'
    try:
        file.write_bytes(b'\0')
    finally:
        file.unlink(missing_ok=True)


def trim(folder: Path, limit: int) -> None:
    """Removes the files that were not read for longest until `limit` bytes are left.

    Another process may remove files, or read one that is removed here: it then compiles.
    """
    found = []
    for path in folder.rglob('*'):
        with contextlib.suppress(OSError):
            if path.is_file():
                stat = path.stat()  # some systems update the time of the last access once a day
                found.append((max(stat.st_atime, stat.st_mtime), stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            path.unlink()
            total -= size


def reporter(folder: Path, show: Show) -> Show:
    """A warnings.showwarning that prints one line for JAX's warnings of the cache.

    JAX never replaces an entry, so that one which cannot be read would fail at each start: those of
    the program's name are removed, and JAX writes the new one.

    Args:
      folder: of the cache.
      show: prints all other warnings.
    """
    written: list[str] = []  # the first failure to write; the others have the same cause

    def report(message: Warning | str, *where, **options) -> None:
        match = FAILURE.match(str(message))
        if match is None:
            show(message, *where, **options)
            return
        doing, name = match.groups()
        cause = (str(message)[match.end() :].splitlines() or ['?'])[0]
        if doing == 'reading':
            for path in folder.glob(f'{name}-*'):
                with contextlib.suppress(OSError):
                    path.unlink()
            print_once(
                f'note: the compiled {name} in {folder} is damaged ({cause}): compiled again'
            )
        elif not written:
            written.append(name)
            print_once(f'warning: the compiled {name} is not kept in {folder} ({cause})')

    return report
