"""Tasks over the embedded code (see `code_questions` and `code_wordings`), in every variant but written steps."""

from t5x_like.tasks import corpora
from t5x_like.tasks.instructions import variants
from t5x_like.tasks.sources.files import GeneratorSource
from t5x_like.tasks.synthetic import code_wordings

CLUSTERS = {name: questions.cluster for name, questions in code_wordings.QUESTIONS.items()}

for name, questions in code_wordings.QUESTIONS.items():
    source = GeneratorSource(questions.examples, corpora.SPLITS)
    variants.add(name, source, questions.templates, questions.metric_fns)
