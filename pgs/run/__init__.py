"""What surrounds the train loop: run folder, checkpoints, metrics, hooks, scores and figures."""
