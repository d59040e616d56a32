"""Safe storage: checkpoints, manifests, locks and odd paths."""
