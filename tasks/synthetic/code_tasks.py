"""Registers the tasks of `code_templates` over the embedded corpus, in every variant but `_steps`."""

from t5x_like.tasks import corpora
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import code_templates

CLUSTERS = {name: task.cluster for name, task in code_templates.TASKS.items()}

for name, task in code_templates.TASKS.items():
    source = GeneratorSource(task.examples, corpora.SPLITS)
    variants.add(name, source, task.templates, task.metric_fns)
