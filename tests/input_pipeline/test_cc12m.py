"""The TFDS builder: the same samples as `prepare`, through Beam's DirectRunner."""

import corpus
import pytest

from configs import base
from input_pipeline import preparation, sources


@pytest.mark.slow
def test_beam_keeps_what_prepare_keeps(tmp_path):
    import tensorflow_datasets as tfds

    from input_pipeline.cc12m.cc12m_dataset_builder import Builder

    tars = tmp_path / 'tars'
    tars.mkdir()
    members, _, _ = corpus.nasty_members()
    corpus.write_tar(tars / '00000.tar', members)
    corpus.good_tar(tars / '00001.tar', 7, first=50)
    builder = Builder(data_dir=str(tmp_path / 'tfds'), file_format='array_record')
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir=str(tars), try_download_gcs=False)
    )
    report = preparation.prepare(str(tars), str(tmp_path / 'prepared'), workers=1)

    def records(name, folder):
        data = base.get_config().data
        data.update(name=name, dir=str(folder))
        ((source, _),) = sources.open_train(data)
        rows = source.__getitems__(list(range(len(source))))
        return sorted((r['key'], r['image'], tuple(r['captions'])) for r in rows)

    by_beam = records('cc12m', tmp_path / 'tfds')  # opened by its name, as a user would
    assert len(by_beam) == report['kept']
    assert by_beam == records('pairs', tmp_path / 'prepared')
