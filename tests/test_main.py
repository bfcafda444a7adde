"""main.py as a process: how it ends when it fails or is stopped, at any moment. Tiny models."""

import re
import shutil
import subprocess
from pathlib import Path

import preloaded
import pytest

from configs import quickstart
from input_pipeline import sampler, sources

ROOT = Path(__file__).parent.parent
FLAGS = [
    '--config.data.name=openmoji',
    '--config.batch_size=8',
    '--config.total_steps=4',
    '--config.log_every=1',
    '--config.checkpoint_every=2',
    '--config.model.embed_dim=16',
    '--config.model.image.image_size=32',
    '--config.model.image.layers=1',
    '--config.model.image.width=32',
    '--config.model.image.heads=2',
    '--config.model.text.layers=1',
    '--config.model.text.width=32',
    '--config.model.text.heads=2',
]
# Runs main.py after a change of the program that brings the fault at an exact moment.
DRIVER = """
import runpy, signal, sys
{change}
sys.argv[0] = 'main.py'
runpy.run_path('main.py', run_name='__main__')
"""


def run(workdir, change='', flags=()) -> tuple[int, list[str], list[str]]:
    """(exit status, lines of stdout, lines of stderr) of main.py; it must end by itself."""
    process = subprocess.run(
        [
            *preloaded.python(),
            '-c',
            DRIVER.format(change=change),
            f'--workdir={workdir}',
            *FLAGS,
            *flags,
        ],
        cwd=ROOT,
        capture_output=True,
        timeout=400,
        check=False,
    )
    # A progress bar, which a slow machine shows, ends each of its states with a carriage return.
    err = re.sub(r'[^\n]*\r', '', process.stderr.decode())
    return process.returncode, process.stdout.decode().splitlines(), err.splitlines()


def damaged_data(folder: Path) -> Path:
    """A cache folder in which a record of the first batch is damaged and most others are not."""
    data = quickstart.get_config().data
    data.name = 'openmoji'
    sources.open_train(data)  # builds it where it is absent
    shutil.copytree(Path(data.cache_dir).expanduser() / 'openmoji', folder / 'openmoji')
    (shard,) = folder.glob('openmoji/*/openmoji-train.array_record*')
    content = bytearray(shard.read_bytes())
    records = len(sources.open_train(data)[0][0])
    first = int(sampler.batch_indices(0, seed=0, batch_size=8, lengths=[records])[0])
    middle, spread = len(content) * first // records, len(content) // 20
    for place in range(
        max(middle - spread, 1000), min(middle + spread, len(content) * 9 // 10), 97
    ):
        content[place] ^= 0xFF
    shard.write_bytes(content)
    return folder


def test_an_unreadable_record_before_the_first_batch_ends_the_process(tmp_path):
    """Reads of later batches go on meanwhile: destroyed at the interpreter's end, they hung it."""
    cache = damaged_data(tmp_path)
    code, out, err = run(tmp_path / 'run', flags=[f'--config.data.cache_dir={cache}'])
    assert code == 1, err
    assert len(err) == 1
    assert err[0].startswith('error: cannot read record ')
    assert not any(line.startswith('step') for line in out)


STOP = 'signal.raise_signal(signal.SIGTERM)'
PATCHES = {
    'compiling': f"""
from pgs.run import programs
programs.lower_train_step = lambda *args: {STOP}
""",
    'drawing the figures': f"""
from pgs.run import summary
summary.draw_masks = lambda *args: {STOP}
""",
}


@pytest.mark.parametrize(
    ('doing', 'outcome'),
    [
        ('compiling', 'nothing is lost: the same command with --workdir={} goes on at step 0 of 4'),
        (
            'drawing the figures',
            'the training is complete and saved: the same command with --workdir={} scores it',
        ),
    ],
)
def test_a_signal_outside_the_loop_ends_with_one_line(tmp_path, doing, outcome):
    code, out, err = run(tmp_path / 'run', PATCHES[doing])
    assert (code, err) == (130, [])
    assert out[-1] == f'stopped while {doing}: {outcome.format(tmp_path / "run")}'
    assert not (tmp_path / 'run' / 'lock.json').exists()


def test_a_disk_that_is_full_in_the_loop_is_one_line(tmp_path):
    change = """
import resource
from pgs.run import checkpoint
save = checkpoint.save
def save_to_full_disk(*args):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    save(*args)
checkpoint.save = save_to_full_disk
"""
    code, _, err = run(tmp_path / 'run', change)
    assert code == 1, err
    assert len(err) == 1
    assert err[0].startswith('error: ')
    assert 'File too large' in err[0]
