"""Reads and writes weights of this project, OpenCLIP and Hugging Face."""

from pgs.convert.load import Checkpoint, check_tokenizer, load_model

__all__ = ['Checkpoint', 'check_tokenizer', 'load_model']
