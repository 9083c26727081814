"""Tasks over the generated worlds (see `worlds_lists`, `worlds_numbers`, `worlds_text`, `worlds_wiki`), in every variant.

`wiki_articles_{bytes,sp}` are the articles to pretrain on. The clusters say which tasks are of one kind.
"""

from t5x_like import text_metrics
from t5x_like.tasks import corpora, text_tasks
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import lists, numbers, text, wiki

METRICS = (text_metrics.exact_match,)
TASKS = {name: task for family in (lists, numbers, text, wiki) for name, task in family.tasks().items()}
CLUSTERS = {name: task.cluster for name, task in TASKS.items()}

for name, task in TASKS.items():
    source = GeneratorSource(task.examples, corpora.SPLITS)
    variants.add(name, source, task.templates, METRICS, steps=True)

articles = GeneratorSource(wiki.articles, corpora.SPLITS, {"targets": "text"})
for suffix, vocabulary in variants.VOCABULARIES.items():
    text_tasks.register(f"wiki_articles_{suffix}", articles, ["targets"], vocabulary)
