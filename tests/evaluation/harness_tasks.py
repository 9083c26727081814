"""Tasks of lm-evaluation-harness over small local files, one of each kind of request."""

import json
from pathlib import Path

QUESTIONS = [("a?", "yes"), ("bc?", "no"), ("def?", "yes"), ("g?", "maybe"), ("hij?", "no")]
CHOICES = ["yes", "no", "maybe"]
DOCUMENTS = ["def f(x):\n    return x\n", "a b c", "naïve text, longer than a window of sixteen bytes"]

TASK = """\
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
target_delimiter: ""
metadata: {{version: 3.0}}
"""
KINDS = {
    "tiny_choices": """\
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: "{{choices.index(answer)}}"
should_decontaminate: true
doc_to_decontamination_query: question
metric_list: [{metric: acc}, {metric: acc_norm}]
""",
    "tiny_rolling": """\
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{text}}"
metric_list: [{metric: bits_per_byte}, {metric: byte_perplexity}]
""",
    "tiny_completion": """\
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["e"], max_gen_toks: 5}
metric_list: [{metric: exact_match}]
""",
}


def write(folder: Path) -> Path:
    """Writes the tasks and their data into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    questions = [{"question": text, "answer": answer, "choices": CHOICES} for text, answer in QUESTIONS]
    data = {"tiny_rolling": [{"text": text} for text in DOCUMENTS]}
    for name, kind in KINDS.items():
        path = folder / f"{name}.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in data.get(name, questions)))
        (folder / f"{name}.yaml").write_text(TASK.format(name=name, data=path) + kind)
    return folder
