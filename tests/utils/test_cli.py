"""Mistakes on the command line: one line each, with the remedy."""

import pytest
from absl import flags
from ml_collections import config_flags

from pgs.errors import UserError
from pgs.utils import cli


@pytest.fixture
def parse(monkeypatch):
    values = flags.FlagValues()
    monkeypatch.setattr(flags, 'FLAGS', values)
    config = config_flags.DEFINE_config_file('config', None, 'test', flag_values=values)
    flags.DEFINE_string('workdir', None, 'test', flag_values=values)
    parser = cli.config_parser(config, 'configs/quickstart.py')

    def parse(*argv):
        monkeypatch.setattr('sys.argv', ['main.py', *argv])  # config_flags reads it for itself
        parser(['main.py', *argv])
        return config.value

    return parse


def test_the_default_is_the_quickstart(parse):
    assert parse().data.name == 'openmoji_scenes'


def test_flags_change_keys(parse):
    config = parse(
        '--config.total_steps=5',
        '--config.masking.strategy=random',
        '--config.seed=3',
        '--config.data.crop_scale=(0.5, 1.0)',
    )
    assert config.total_steps == 5
    assert config.masking.strategy == 'random'
    assert config.seed == 3
    assert config.data.crop_scale == (0.5, 1.0)


@pytest.mark.parametrize(
    'form', [['--config=configs/vitb16_clip.py'], ['--config', 'configs/vitb16_clip.py']]
)
def test_another_file(parse, form):
    assert parse(*form, '--config.batch_size=8').masking.strategy == 'none'


@pytest.mark.parametrize(
    ('argv', 'words'),
    [
        (['--config.masking.strategi=pgs'], 'did you mean config.masking.strategy?'),
        (['--config.learning_rate=1'], 'did you mean config.optimizer.peak_learning_rate?'),
        (['--config.qqq=1'], 'config.qqq is unknown: configs/base.py lists every key'),
        (['--config=configs/absent.py'], "no config file 'configs/absent.py'"),
        (['--config=configs/vitb16_pgs.py:0.7'], 'take :0.3 or :0.5'),
        (['--config.batch_size=many'], '--config.batch_size=many'),
        (['--wrkdir=x'], 'wrkdir'),
        (['runs/x'], "'runs/x' is not a flag"),
    ],
)
def test_mistakes_are_named_in_one_line(parse, argv, words):
    with pytest.raises(SystemExit) as stop:
        parse(*argv)
    message = str(stop.value)
    assert message.startswith('error: ')
    assert words in message
    assert '\n' not in message


@pytest.mark.parametrize(
    ('flag', 'raised', 'code'),
    [
        (None, UserError('the file is absent'), 'error: the file is absent'),
        (None, None, None),
        ('--help', None, 0),
        ('--unknown', None, 'error: '),
    ],
)
def test_a_program_ends_with_one_line_or_well(monkeypatch, capsys, flag, raised, code):
    def main(argv):
        if raised:
            raise raised

    monkeypatch.setattr('sys.argv', ['program', *([flag] if flag else [])])
    with pytest.raises(SystemExit) as stop:
        cli.run(main)
    if isinstance(code, str):
        assert str(stop.value.code).startswith(code)
    else:
        assert stop.value.code == code
