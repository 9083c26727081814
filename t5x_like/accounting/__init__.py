"""FLOPs and bytes of memory of models and runs, computed from shapes."""
