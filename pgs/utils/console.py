"""What a person sees while a program works: times and progress bars."""

from collections.abc import Iterable

import tqdm

from pgs.utils.distributed import is_primary


def format_seconds(seconds: float) -> str:
    """75 -> '1:15', 3675 -> '1:01:15'."""
    minutes, secs = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02}:{secs:02}' if hours else f'{minutes}:{secs:02}'


def progress_bar(items: Iterable | None, label: str, unit: str, total: int | None) -> tqdm.tqdm:
    """A bar with rate and ETA that disappears at the end; work of less than 5 s shows none."""
    return tqdm.tqdm(
        items, desc=label, unit=unit, total=total, delay=5, leave=False, disable=not is_primary()
    )
