"""Arithmetic on models and runs before they are computed: FLOPs and bytes of memory."""
