"""From records on disk to batches on the host."""
