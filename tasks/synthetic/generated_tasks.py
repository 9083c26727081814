"""Registers the tasks of `lists`, `numbers`, `text` and `wiki` in every variant.

`wiki_articles_{bytes,sp}` are the articles for pretraining. `CLUSTERS` groups similar tasks.
"""

from t5x_like import text_metrics
from t5x_like.prompting.renderings import Shots
from t5x_like.tasks import corpora, text_tasks, vocabularies
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import lists, numbers, text, wiki

METRICS = (text_metrics.exact_match,)
TASKS = {name: task for family in (lists, numbers, text, wiki) for name, task in family.make_tasks().items()}
CLUSTERS = {name: task.cluster for name, task in TASKS.items()}

for name, task in TASKS.items():
    source = GeneratorSource(task.examples, corpora.SPLITS)
    variants.add(name, source, task.templates, METRICS, steps=True, stops=(Shots().separator,))

articles = GeneratorSource(wiki.articles, corpora.SPLITS, {"targets": "text"})
for suffix, vocabulary in vocabularies.BY_NAME.items():
    text_tasks.register(f"wiki_articles_{suffix}", articles, ["targets"], vocabulary)
