"""Two processes of two devices each run main.py as one job, over gloo on one machine."""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import numpy as np
import preloaded
import pytest
from test_main import DRIVER

from pgs.errors import UserError
from pgs.run.metrics import read_metrics
from pgs.utils import distributed

ROOT = Path(__file__).parent.parent
FLAGS = [
    '--config.batch_size=16',
    '--config.log_every=1',
    '--config.checkpoint_every=2',
    '--config.checkpoints_kept=3',
    '--config.model.embed_dim=16',
    '--config.model.image.image_size=32',
    '--config.model.image.layers=2',
    '--config.model.image.width=32',
    '--config.model.text.layers=2',
    '--config.model.text.width=32',
]
STARTED = []


def start(
    workdir, *, processes: int, devices: int, steps: int = 6, fsdp: int = 1, more=(), change=''
):
    """Starts main.py `processes` times, after a `change`; returns them, the primary first."""
    with socket.socket() as free:
        free.bind(('localhost', 0))
        port = free.getsockname()[1]
    command = [
        *preloaded.python(),
        '-c',
        DRIVER.format(change=change),
        *FLAGS,
        f'--workdir={workdir}',
        f'--config.total_steps={steps}',
        f'--config.mesh.fsdp={fsdp}',
        *more,
    ]
    common = os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_NUM_CPU_DEVICES': str(devices)}
    if processes > 1:
        common |= {'JAX_COORDINATOR_ADDRESS': f'localhost:{port}'}
        common |= {'JAX_NUM_PROCESSES': str(processes)}
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            env=common | ({'JAX_PROCESS_ID': str(index)} if processes > 1 else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for index in range(processes)
    ]
    STARTED.extend(started)
    return started


@pytest.fixture(autouse=True, scope='module')
def _nothing_is_left_running():
    yield
    for process in STARTED:
        process.kill()


def finish(processes, timeout=240) -> list[str]:
    outputs = [process.communicate(timeout=timeout)[0] for process in processes]
    check_statuses(processes, outputs, 0)
    return outputs


def check_statuses(processes, outputs: list[str], status: int) -> None:
    statuses = [process.returncode for process in processes]
    assert statuses == [status] * len(processes), '\n\n'.join(text[-5000:] for text in outputs)


def read_until(process, words: str) -> str:
    """Output up to the line that holds the words."""
    seen = ''
    for line in process.stdout:
        seen += line
        if words in line:
            return seen
    raise AssertionError(f'{words!r} never came: {seen}')


def losses(workdir):
    """(step, loss, gradient norm, masked share) of each step."""
    records = read_metrics(workdir / 'metrics.jsonl')
    keys = ('step', 'loss', 'grad_norm', 'mask_ratio')
    return np.array([[r[k] for k in keys] for r in records if 'loss' in r])


@pytest.fixture(scope='module')
def evals(small_data):
    """Flags that score while the run goes on."""
    return [
        f'--config.eval_data_root={small_data}',
        '--config.eval_every=4',
        "--config.evals=('held_out','zeroshot/digits','linear_probe/digits')",
    ]


@pytest.fixture(scope='module')
def one_process(tmp_path_factory, evals):
    workdir = tmp_path_factory.mktemp('runs') / 'one'
    finish(start(workdir, processes=1, devices=1, more=evals))
    return workdir


@pytest.fixture(scope='module')
def two_processes(tmp_path_factory, evals):
    workdir = tmp_path_factory.mktemp('runs') / 'two'
    outputs = finish(start(workdir, processes=2, devices=2, fsdp=2, more=evals))
    return workdir, outputs


@pytest.mark.slow
def test_two_processes_compute_what_one_does(one_process, two_processes):
    workdir, outputs = two_processes
    np.testing.assert_allclose(losses(workdir), losses(one_process), rtol=1e-5)
    assert 'data 2 x fsdp 2) of 2 processes' in outputs[0]
    assert 'step 6/6' in outputs[0]
    assert 'step 6/6' not in outputs[1]  # one prints for all
    for name in ('results.json', 'config.json', 'figures/masks.png'):
        assert (workdir / name).is_file()
    assert len(list(workdir.glob('events.out.tfevents.*'))) == 1


@pytest.mark.slow
def test_two_processes_score_what_one_does(one_process, two_processes):
    def scored(workdir):
        records = read_metrics(workdir / 'metrics.jsonl')
        return [r for r in records if 'eval/zeroshot/digits/acc1' in r]

    alone, together = scored(one_process), scored(two_processes[0])
    assert [r['step'] for r in alone] == [4, 6]
    for one, two in zip(alone, together, strict=True):
        assert two == pytest.approx(one, abs=2e-2)  # a rank or two may change with the last bit
        assert two['eval/val_loss'] == pytest.approx(one['eval/val_loss'], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('direction', ['two to one', 'one to two'])
def test_a_checkpoint_goes_on_with_another_number_of_processes(
    one_process, two_processes, tmp_path, direction
):
    before = two_processes[0] if direction == 'two to one' else one_process
    workdir = tmp_path / 'run'
    shutil.copytree(before, workdir)
    for step in (4, 6):
        shutil.rmtree(workdir / 'checkpoints' / str(step))
    count = 1 if direction == 'two to one' else 2
    outputs = finish(start(workdir, processes=count, devices=2))
    assert 'Resumes at step 2 of 6' in outputs[0]
    np.testing.assert_allclose(losses(workdir), losses(one_process), rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(('words', 'least'), [('Starts at step', 1), (' 3/3000 ', 3)])
def test_sigterm_to_one_stops_both_after_the_same_step(words, least, tmp_path):
    """While the step is compiled, and in the loop."""
    workdir = tmp_path / 'run'
    processes = start(
        workdir, processes=2, devices=1, steps=3000, more=['--config.data.name=openmoji']
    )
    read_until(processes[0], words)
    processes[1].send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    check_statuses(processes, outputs, 130)
    assert 'checkpoint saved' in outputs[0]
    saved = max(int(p.name) for p in (workdir / 'checkpoints').iterdir())
    assert least <= saved < 3000
    assert f'stopped at step {saved} of 3000' in outputs[0]


SLOW_FIGURES = """
import time
from pgs.run import summary
from pgs.utils import exits
finish = summary.finish
def slow(*args, **kwargs):
    time.sleep(8)
    return finish(*args, **kwargs)
summary.finish = slow
exits.LIMIT_OF_SEVERAL = 1.0
"""


@pytest.mark.slow
def test_the_others_stay_until_the_first_process_has_written_everything(tmp_path):
    """JAX's coordination service ends the first process soon after another one has left."""
    data = ['--config.data.name=openmoji', '--config.data.validation_split=absent']
    processes = start(tmp_path, processes=2, devices=1, steps=1, more=data, change=SLOW_FIGURES)
    assert processes[1].wait(timeout=240) == 0
    assert (tmp_path / 'results.json').exists()
    finish(processes)


@pytest.mark.slow
@pytest.mark.parametrize('victim', [0, 1])
def test_a_process_that_dies_ends_the_other_within_a_minute(tmp_path, victim):
    # No save in between: while one waits for the other's part, JAX itself aborts the process.
    more = ['--config.checkpoint_every=100000']
    processes = start(tmp_path / 'run', processes=2, devices=1, steps=100_000, more=more)
    read_until(processes[0], ' 3/100000 ')
    processes[victim].kill()
    clock = time.monotonic()
    output = processes[1 - victim].communicate(timeout=90)[0]
    assert time.monotonic() - clock < 60
    assert processes[1 - victim].returncode not in (0, None), output
    if (
        victim == 1
    ):  # process 0 has JAX's coordination service, whose loss ends the others by itself
        errors = [x for x in output.splitlines() if not x.startswith(('step', 'warning: no'))]
        assert len(errors) == 1, output
        assert 'error: a computation of 2 processes failed in process 0' in errors[0]
    processes[victim].communicate()


@pytest.mark.slow
def test_a_folder_of_another_run_ends_both_with_one_line(one_process):
    processes = start(one_process, processes=2, devices=1, steps=7)
    for process in processes:
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1
        assert 'error: ' in output
        assert 'total_steps: 6 there, 7 here' in output
        assert 'Traceback' not in output


@pytest.mark.slow
def test_data_that_one_process_cannot_build_end_both_with_its_line(tmp_path):
    """The others wait for process 0, which builds what all share."""
    more = ['--config.data.cache_dir=/proc/cache']
    for process in start(tmp_path / 'run', processes=2, devices=1, more=more):
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 1
        assert 'error: cannot write openmoji_scenes to config.data.cache_dir' in output
        assert 'Traceback' not in output


@pytest.mark.parametrize(
    ('variables', 'words'),
    [
        ({'JAX_COORDINATOR_ADDRESS': 'localhost:1'}, 'JAX_NUM_PROCESSES is not'),
        (
            {
                'JAX_COORDINATOR_ADDRESS': 'localhost:1',
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': 'a',
            },
            'must be integers',
        ),
        (
            {
                'JAX_COORDINATOR_ADDRESS': 'localhost:1',
                'JAX_NUM_PROCESSES': '2',
                'JAX_PROCESS_ID': '2',
            },
            'JAX_PROCESS_ID=2 must be from 0 to',
        ),
    ],
)
def test_variables_that_do_not_fit_are_named(monkeypatch, variables, words):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=words):
        distributed.start()
