"""What a run says at its start about the budget of its captions."""

import jax.numpy as jnp
import pytest

from input_pipeline.tokenizer import padded
from pgs.build import check_config
from pgs.errors import UserError
from pgs.run.text_budget import budget_line

LENGTHS = [20] * 8 + [4] * 24  # 8 on average


def tokens(lengths):
    return jnp.asarray(padded([[7] * (n - 2) for n in lengths], 24))


def test_a_budget_that_cuts_none_is_told():
    line = budget_line(tokens(LENGTHS), 8)
    assert line == 'Captions: 8.0 tokens on average, 8 computed for each, 0.0% of them cut'


def test_a_budget_that_cuts_many_names_one_that_cuts_few():
    line = budget_line(tokens(LENGTHS), 5)
    assert line.startswith('warning: Captions: 8.0 tokens on average, 5 computed')
    assert line.endswith('25.0% of them cut: take --config.model.text.tokens_per_pair=8')
    assert budget_line(tokens([24] * 32), 16).endswith('tokens_per_pair=24')


@pytest.mark.parametrize(
    ('budget', 'message'),
    [
        (1, r'text\.tokens_per_pair=1'),
        (25, r'tokens_per_pair=25 is above model\.text\.context_length=24'),
    ],
)
def test_a_budget_out_of_range_is_refused(tiny_config, budget, message):
    tiny_config.model.text.tokens_per_pair = budget
    with pytest.raises(UserError, match=message):
        check_config(tiny_config, devices=1, platform='cpu')
