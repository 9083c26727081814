"""Scoring: log-probabilities of given texts.

`rows` says what a model reads and predicts, `scorer` computes rows in batches of few shapes, and `texts` makes rows of
continuations, documents and masked texts, and their records.
"""
