"""Pretraining tasks over the embedded corpus: `python_{source,docs,docstrings}_{bytes,sp}`."""

from t5x_like.tasks import corpora, text_tasks, vocabularies
from t5x_like.tasks.sources.files import GeneratorSource

TEXT = {"targets": "text"}
PAIR = {"inputs": "inputs", "targets": "targets"}
FIELDS = {corpora.python_source: TEXT, corpora.python_docs: TEXT, corpora.python_docstrings: PAIR}

for suffix, vocabulary in vocabularies.BY_NAME.items():
    for corpus, fields in FIELDS.items():
        source = GeneratorSource(corpus, corpora.SPLITS, fields)
        text_tasks.register(f"{corpus.__name__}_{suffix}", source, list(fields), vocabulary)
