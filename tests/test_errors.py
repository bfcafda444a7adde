"""The one line of an error, whatever it quotes."""

import pytest

from pgs.errors import LONGEST, UserError


@pytest.mark.parametrize(
    ('message', 'line'),
    [
        ('a file  with spaces', 'a file  with spaces'),
        ('two\nlines\u2028three', 'two lines three'),
        ('half a pair \ud800', 'half a pair ?'),
        ('x' * LONGEST, 'x' * LONGEST),
    ],
)
def test_a_message_is_one_line_that_can_be_printed(message, line):
    assert str(UserError(message)) == line


def test_a_long_message_keeps_its_ends():
    line = str(UserError('start ' + 'x' * 5000 + ' remedy'))
    assert len(line) <= LONGEST
    assert line.startswith('start xxx')
    assert line.endswith('xxx remedy')
    assert ' ... ' in line
