"""Raw samples: what `prepare` reads, before any check of its content.

`layouts.py` finds out what a source is. Tars, parquet files with images in them and TSVs of URLs are
read where they lie; any other source becomes a list of images first (`listing.py`).
"""
