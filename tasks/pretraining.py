"""Tasks over the embedded corpus, each with bytes (`_bytes`) and with SentencePiece (`_sp`)."""

from t5x_like.tasks import corpora, text_tasks
from t5x_like.tasks.sources.files import GeneratorSource

TEXT = {"targets": "text"}
PAIR = {"inputs": "inputs", "targets": "targets"}
FIELDS = {corpora.python_source: TEXT, corpora.python_docs: TEXT, corpora.python_docstrings: PAIR}

for suffix, vocabulary in text_tasks.NAMED.items():
    for corpus, fields in FIELDS.items():
        source = GeneratorSource(corpus, corpora.SPLITS, fields)
        text_tasks.register(f"{corpus.__name__}_{suffix}", source, list(fields), vocabulary)
