"""Opening data sets, and the messages for those that cannot be opened."""

import pytest

from configs import base
from input_pipeline import sources
from pgs.errors import UserError


def data_config(**changes):
    data = base.get_config().data
    data.update(changes)
    return data


def test_an_absent_data_set_is_an_error_with_a_remedy(tmp_path):
    with pytest.raises(UserError, match=r"'cc12m'.*--config\.data\.name=openmoji"):
        sources.open_train(data_config(dir=str(tmp_path)))


def test_a_name_that_tfds_knows_but_nobody_built(tmp_path):
    from input_pipeline.cc12m import cc12m_dataset_builder

    assert cc12m_dataset_builder.Builder.name == 'cc12m'  # imported, so TFDS knows it
    with pytest.raises(UserError, match=r"'cc12m': no prepared data set in"):
        sources.open_train(data_config(dir=str(tmp_path)))


def test_an_absent_split_is_named():
    data = data_config(name='openmoji', train_split='test')
    with pytest.raises(UserError, match=r"no split 'test': it has .*train"):
        sources.open_train(data)


def test_a_cache_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=r'cache_dir=.*give a writable folder'):
        sources.open_train(data_config(name='openmoji', cache_dir=str(tmp_path / 'file' / 'cache')))


def test_a_data_set_without_captions_is_refused(tmp_path):
    import tensorflow_datasets as tfds

    with tfds.testing.tmp_dir(str(tmp_path)) as folder:
        builder = tfds.testing.DummyDataset(data_dir=folder, file_format='array_record')
        builder.download_and_prepare()
        with pytest.raises(UserError, match='lacks the features image and captions'):
            sources.open_train(data_config(name='dummy', dir=str(builder.data_dir)))


def test_a_mixture_opens_each_with_its_weight():
    rows = (('openmoji', '', 3.0), ('openmoji', '', 1.0))
    opened = sources.open_train(data_config(mixture=rows))
    assert [weight for _, weight in opened] == [3.0, 1.0]
    assert [len(source) for source, _ in opened] == [3529, 3529]


@pytest.mark.parametrize('rows', [(('openmoji', ''),), (('openmoji', '', 0.0),)])
def test_a_mixture_row_that_is_none_is_named(rows):
    with pytest.raises(UserError, match=r'must be \(name, dir, weight above 0\)'):
        sources.open_train(data_config(mixture=rows))


def test_the_place_of_a_record(train_source):
    assert train_source.location(0).startswith('record 0 of ')
    assert train_source.location(3528).startswith('record 3528 of ')
    assert 'openmoji-train.array_record-00000-of-00001' in train_source.location(5)
