"""Text masks: what they keep, how often, and the word counts behind `frequency`."""

import collections
import functools
import json

import numpy as np
import pytest

from configs import base, vitb16_pgs, vitb16_pgs_frequency
from input_pipeline import pipeline, sources, text_masking, word_counts
from input_pipeline.tokenizer import END_OF_TEXT, START_OF_TEXT, encode, tokenize
from pgs.build import check_config
from pgs.compile.aot import batch_shapes
from pgs.errors import UserError
from pgs.run.data import open_data, training_batches

LONG = 'a small brown dog runs over the green grass of a park near the old river'
SETTINGS = {
    'seed': 7,
    'batch_size': 8,
    'start_step': 0,
    'total_steps': 3,
    'image_size': 32,
    'crop_scale': (0.9, 1.0),
}


def is_subsequence(part, whole):
    rest = iter(whole)
    return all(x in rest for x in part)


def masks():
    drop = {'a': 0.9, 'the': 0.9, 'of': 0.9, 'dog': 0.0}
    return text_masking.WITHOUT_COUNTS | {
        'frequency': functools.partial(text_masking.frequency, drop=drop)
    }


@pytest.mark.parametrize('name', text_masking.NAMES)
@pytest.mark.parametrize('length', [1, 6, 15])
def test_each_mask_keeps_tokens_in_their_order(name, length):
    mask, ids = masks()[name], encode(LONG)
    assert len(ids) == 16
    for seed in range(20):
        kept = mask(LONG, length, seed)
        assert len(kept) == length
        assert is_subsequence(kept, ids)
        assert kept == mask(LONG, length, seed)  # a pure function of its arguments
    if name != 'truncate':
        assert len({tuple(mask(LONG, length, seed)) for seed in range(20)}) > 1


@pytest.mark.parametrize('name', text_masking.NAMES)
@pytest.mark.parametrize('caption', ['', 'a dog', LONG])
def test_a_caption_that_fits_is_unchanged(name, caption):
    assert masks()[name](caption, 16, 3) == encode(caption)


def test_truncate_is_the_tokenizers_cut():
    kept = text_masking.truncate(LONG, 6, 0)
    assert [START_OF_TEXT, *kept, END_OF_TEXT] == tokenize([LONG], 8)[0].tolist()


def test_random_keeps_each_token_equally_often():
    counts = collections.Counter()
    ids = [str(i) for i in range(10)]  # ten digits: ten different tokens
    for seed in range(2000):
        counts.update(text_masking.random(' '.join(ids), 4, seed))
    shares = np.array(list(counts.values())) / 2000
    assert len(shares) == 10
    np.testing.assert_allclose(shares, 0.4, atol=0.05)


def test_block_is_consecutive_and_starts_everywhere():
    ids = encode(LONG)
    starts = collections.Counter()
    for seed in range(1100):
        kept = text_masking.block(LONG, 6, seed)
        (start,) = [s for s in range(11) if ids[s : s + 6] == kept]
        starts[start] += 1
    assert set(starts) == set(range(11))
    assert min(starts.values()) > 60  # 100 expected


def test_drop_probabilities_by_hand():
    counts = {'the': 250_000, 'dog': 100, 'hapax': 1}
    drop = word_counts.drop_probabilities(counts, total=1_000_000, threshold=1e-6)
    assert drop['the'] == pytest.approx(1 - np.sqrt(1e-6 / 0.25))
    assert drop['dog'] == pytest.approx(0.9)
    assert drop['hapax'] == 0.0


def test_frequency_drops_frequent_and_uncounted_words_first():
    """Scores are U - p_drop: a word with p_drop 0 always beats one with 1, in CLIPF also a rare one."""
    words = LONG.split()
    counted = {'dog': 0.0, 'park': 0.0, 'river': 0.0}
    for seed in range(50):
        kept = text_masking.frequency(LONG, 3, seed, drop=counted)
        assert kept == encode('dog park river')
    # With p_drop 1 / 2 against 1, the order of two words is drawn: P(U1 - 1/2 > U2 - 1) = 7/8.
    first = sum(
        text_masking.frequency('dog park', 1, seed, drop={'dog': 0.5}) == encode('dog')
        for seed in range(2000)
    )
    assert first / 2000 == pytest.approx(7 / 8, abs=0.03)
    assert len(words) == 16


def test_frequency_chooses_words_and_cuts_their_tokens():
    """A rare word of several tokens takes the room of several words."""
    caption = 'the hemidemisemiquaver of the dog'
    drop = {'hemidemisemiquaver': 0.0, 'dog': 0.0, 'the': 0.99, 'of': 0.99}
    pieces = encode('hemidemisemiquaver')
    assert len(pieces) > 4
    assert text_masking.frequency(caption, 2, 0, drop=drop) == pieces[:2]


def test_words_are_the_tokenizers_units():
    caption = "Don't stop, it's 25 km -- the café's (new) door!"
    words = word_counts.words_of(caption)
    assert words[:5] == ['don', "'t", 'stop', ',', 'it']
    assert {'2', '5', '--', 'café'} <= set(words)
    assert encode(' '.join(words)) == encode(caption)


class Captions(list):
    """Records in memory, with the attributes of sources.Records."""

    def __init__(self, captions, folder):
        super().__init__({'captions': [c.encode()]} for c in captions)
        self.folder, self.split = folder, 'train'
        self.shards = {'pairs-train.array_record-00000-of-00001': len(captions)}

    def __getitems__(self, ids):
        return [self[i] for i in ids]


def test_words_are_counted_once_and_kept(tmp_path, capfd, monkeypatch):
    source = Captions(['A dog, a cat.'] * 300 + ['one bird'], tmp_path)
    counts, total = word_counts.counts_of([source])
    assert counts == {'a': 600, 'dog': 300, 'cat': 300, ',': 300, '.': 300}  # 'bird' is too rare
    assert total == 1802
    assert '301/301' in capfd.readouterr().err  # the bar has a total
    monkeypatch.setattr(word_counts, 'words_of', None)
    assert word_counts.counts_of([source]) == (counts, total)
    assert word_counts.counts_of([source, source])[1] == 2 * total  # a mixture
    assert [p.name for p in tmp_path.iterdir()] == ['word_counts_train.json']


def test_counts_of_another_data_set_are_refused(tmp_path):
    word_counts.counts_of([Captions(['a dog'] * 9, tmp_path)])
    with pytest.raises(
        UserError, match=r'word_counts_train\.json holds .* another data set: delete'
    ):
        word_counts.counts_of([Captions(['a cat'] * 8, tmp_path)])


@pytest.mark.parametrize('content', ['{', '[]', '{"words": 3}'])
def test_counts_that_cannot_be_read_are_named(tmp_path, content):
    (tmp_path / 'word_counts_train.json').write_text(content)
    with pytest.raises(UserError, match=r'cannot read .*word_counts_train\.json.*; delete it'):
        word_counts.counts_of([Captions(['a cat'], tmp_path)])


def test_counts_that_cannot_be_written_are_named(tmp_path):
    source = Captions(['a dog'], tmp_path / 'absent')
    with pytest.raises(UserError, match=r'cannot write .*word_counts_train\.json .*writable'):
        word_counts.counts_of([source])


def batches(source, **changes):
    return list(pipeline.train_batches([(source, 1.0)], **(SETTINGS | changes)))


def test_short_captions_end_with_the_image_mask(tiny_config):
    """Steps 4 to 6 read whole captions; every step is what a run of that length reads."""
    tiny_config.update(batch_size=8, total_steps=6)
    tiny_config.masking.until = 0.5
    data = open_data(tiny_config)._replace(mask_text=masks()['random'])

    def read(short, until=0.5, start=0):
        tiny_config.text_masking.context_length = short
        tiny_config.masking.until = until
        return [
            batch['tokens'] for batch in training_batches(tiny_config, data, start, np.arange(8))
        ]

    whole, short, mixed = read(0), read(8, until=1.0), read(8)
    assert [tokens.shape[1] for tokens in mixed] == [8, 8, 8, 24, 24, 24]
    for step in range(3):
        np.testing.assert_array_equal(mixed[step], short[step])
    assert (mixed[5].max(axis=1) == END_OF_TEXT).all()
    plain = data._replace(mask_text=text_masking.truncate)
    tiny_config.text_masking.context_length = 0
    for step, batch in enumerate(training_batches(tiny_config, plain, 3, np.arange(8)), 3):
        np.testing.assert_array_equal(mixed[step], batch['tokens'])
    for start in (1, 4):
        for again, tokens in zip(read(8, start=start), mixed[start:], strict=True):
            np.testing.assert_array_equal(again, tokens)
    for again, tokens in zip(read(24), whole, strict=True):  # the model's own length
        np.testing.assert_array_equal(again, tokens)


@pytest.mark.parametrize('name', text_masking.NAMES)
def test_batches_with_a_text_mask(train_source, name):
    """The same images, other tokens; the same on many hosts and after a resumption."""
    settings = {'context_length': 6, 'mask_text': masks()[name]}
    plain, masked = batches(train_source, context_length=6), batches(train_source, **settings)
    again = batches(train_source, **settings | {'start_step': 2})
    part = batches(train_source, rows=np.arange(8)[1::2], **settings)
    np.testing.assert_array_equal(again[0]['tokens'], masked[2]['tokens'])
    for one, other, rows in zip(plain, masked, part, strict=True):
        np.testing.assert_array_equal(one['images'], other['images'])
        np.testing.assert_array_equal(other['tokens'][1::2], rows['tokens'])
        assert (other['tokens'][:, 0] == START_OF_TEXT).all()
        assert (other['tokens'].max(axis=1) == END_OF_TEXT).all()
    differs = any((a['tokens'] != b['tokens']).any() for a, b in zip(plain, masked, strict=True))
    assert differs == (name != 'truncate')


def test_frequency_of_a_prepared_data_set(tmp_path, train_source):
    """The counts of real records; the kept file opens again."""
    options = base.get_config().text_masking
    options.strategy = 'frequency'
    source = Captions(
        [c for i in range(200) for c in sources.captions_of(train_source[i])], tmp_path
    )
    mask = text_masking.configured(options, [source])
    caption = sources.captions_of(train_source[3])[0]
    assert mask(caption, 77, 0) == encode(caption)
    assert len(mask(caption, 2, 0)) == 2
    kept = json.loads((tmp_path / 'word_counts_train.json').read_text())
    assert kept['counts']['emoji'] >= 200
    assert min(kept['counts'].values()) >= word_counts.MIN_COUNT


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        (
            {'text_masking.strategy': 'syntax'},
            r"'syntax' is unknown: .*truncate, random, block, freq",
        ),
        ({'text_masking.threshold': 0.0}, 'text_masking.threshold=0.0 must be above 0'),
        ({'model.text.context_length': 2}, 'context_length=2 must be .*from 3 .*: take 3'),
        ({'text_masking.context_length': 2}, r'text_masking\.context_length=2 has no room'),
        ({'text_masking.context_length': -8}, r'text_masking\.context_length=-8 must be'),
        ({'text_masking.context_length': 25}, r'context_length=25 is above .*=24: lower it'),
    ],
)
def test_bad_values_are_named(tiny_config, changes, message):
    tiny_config.update_from_flattened_dict(changes)
    with pytest.raises(UserError, match=message):
        check_config(tiny_config, devices=1, platform='cpu')


@pytest.mark.parametrize(('args', 'length'), [((), 8), (('8',), 8), (('16',), 16)])
def test_the_config_of_both_masks(args, length):
    """PGS-0.3, but for the captions and the last epoch, which trains all positions."""
    config, expected = vitb16_pgs_frequency.get_config(*args), vitb16_pgs.get_config()
    expected.text_masking.strategy = 'frequency'
    expected.text_masking.context_length = length
    expected.masking.until = 31 / 32
    expected.optimizer.update(tail_rate=1e-5, tail_warmup_steps=500)
    assert config.to_dict() == expected.to_dict()
    assert batch_shapes(config)['tokens'].shape == (4096, length)  # of pgs.compile
    check_config(config, devices=1, platform='cpu')


def test_another_number_of_tokens_is_refused():
    with pytest.raises(UserError, match=r'vitb16_pgs_frequency\.py:32: take :8 or :16'):
        vitb16_pgs_frequency.get_config('32')
