"""Published figures of methods that the paper does not compare with, each trained by its own recipe.

Their rows follow those of the paper in each table for which they have a figure, in the same order
as here. The number in a row's name is that of its footnote.
"""

from typing import NamedTuple

from pgs.report.paper_tables import CLASSIFICATION, ROBUSTNESS, Table


class Peer(NamedTuple):
    """A method with figures of its own paper.

    Attributes:
      name: of the method.
      row: name of its row, with the number of the footnote.
      figures: title of a table -> heading of a column -> percent.
      note: source, and what differs from the recipe of the paper's rows.
    """

    name: str
    row: str
    figures: dict[str, dict[str, float]]
    note: str


PEERS = (
    Peer(
        'CLIPF',
        'CLIPF [1]',
        {ROBUSTNESS.title: {'IN-1K': 39.8}},
        '[1] WACV 2026, arXiv 2412.16148. Another recipe: 30 epochs, a random mask of one half of '
        'the patches, and captions of 8 tokens that are chosen by word frequency. '
        'Its own CLIP: 36.6; CLIPF after tuning without masks: 41.0.',
    ),
    Peer(
        'GLIP',
        'GLIP [2]',
        {ROBUSTNESS.title: {'IN-1K': 37.1}},
        '[2] ECML 2024, arXiv 2403.15837. Another recipe: 30 epochs at batch 1280, crops of 0.5 to '
        '1 of the image, and a centered mask of one half of the patches. '
        'Its own CLIP: 36.5; GLIP after tuning without a mask: 37.2.',
    ),
    Peer(
        'PowerCLIP',
        'PowerCLIP [3]',
        {CLASSIFICATION.title: {'mean': 42.2}},
        '[3] CVPR 2026, arXiv 2511.23170, its variant S. The same data, epochs and batch, but no '
        'mask: further losses align regions, which a segmentation model computes before the '
        'training, with phrases. Only the mean is included here.',
    ),
)
ROW_NAMES = frozenset(name for peer in PEERS for name in (peer.name, peer.row))


def peers_of(table: Table) -> tuple[Peer, ...]:
    """The peers that have a figure in a table."""
    return tuple(peer for peer in PEERS if table.title in peer.figures)


def peer_rows(table: Table) -> dict[str, list[float | None]]:
    """Name of a row -> percent, one value for each column of the table; None: no figure."""
    return {
        peer.row: [peer.figures[table.title].get(column.heading) for column in table.columns]
        for peer in peers_of(table)
    }
