"""Serving: an engine that continues many requests at once (`engine`), and what it is asked for and answers (`requests`)."""
