"""Weights in and out."""

from pgs.convert.load import Checkpoint, check_tokenizer, load_model

__all__ = ['Checkpoint', 'check_tokenizer', 'load_model']
