"""Other public clients: lm-evaluation-harness by local-completions and local-chat-completions, and LangChain."""

import json

import httpx
import pytest

from t5x_like.serving.requests import Settings
from tests.serving import scripted
from tests.serving.http import servers
from tests.serving.http.servers import MODEL

CHOICES = """
task: tiny_choices
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: "{{{{[a, b]}}}}"
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc}}]
"""
WRITING = """
task: tiny_writing
dataset_path: json
dataset_kwargs: {{data_files: {{test: {path}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "x"
generation_kwargs: {{until: ["\\n"], max_gen_toks: 20}}
metric_list: [{{metric: exact_match}}]
"""
DOCUMENTS = [{"question": f"Question {number}:", "a": " ab", "b": " xyz"} for number in range(5)]


@pytest.fixture(scope="module")
def engine():
    return scripted.ScriptedEngine()


@pytest.fixture(scope="module")
def server(engine):
    with servers.serve(engine) as server:
        yield server


def evaluate(server, folder, kind, path, **options):
    """The samples of both tasks by lm-eval."""
    lm_eval = pytest.importorskip("lm_eval")
    tasks = pytest.importorskip("lm_eval.tasks")
    (folder / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in DOCUMENTS))
    for name, text in {"choices": CHOICES, "writing": WRITING}.items():
        (folder / f"{name}.yaml").write_text(text.format(path=folder / "documents.jsonl"))
    arguments = {"base_url": f"http://127.0.0.1:{server.port}{path}", "model": MODEL, "max_retries": 1}
    names = ["tiny_writing"] if "chat" in path else ["tiny_choices", "tiny_writing"]
    manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
    results = lm_eval.simple_evaluate(
        kind, model_args=arguments, tasks=names, task_manager=manager, bootstrap_iters=0, **options
    )
    return results["samples"]


def test_lm_eval_scores_and_generates(server, engine, tmp_path):
    samples = evaluate(server, tmp_path, "local-completions", "/v1/completions", batch_size=3)
    vocabulary = engine.vocabulary
    for sample in samples["tiny_choices"]:
        for name, (log_prob, _) in zip("ab", sample["filtered_resps"], strict=True):
            document = sample["doc"]
            ids = vocabulary.encode(document["question"] + document[name])
            count = len(vocabulary.encode(document["question"]))
            assert float(log_prob) == pytest.approx(sum(-index / 100 for index in ids[count:]))
    for sample in samples["tiny_writing"]:
        ids = vocabulary.encode(sample["doc"]["question"])
        settings = Settings(max_new_tokens=20, seed=1234)
        answer = vocabulary.decode(vocabulary.encode(scripted.answer_of(ids, settings))[:20])
        assert sample["filtered_resps"][0] == answer


def test_lm_eval_chats(server, engine, tmp_path):
    options = {"apply_chat_template": True}
    samples = evaluate(server, tmp_path, "local-chat-completions", "/v1/chat/completions", **options)
    made = {ticket.text for ticket in engine.submitted}
    assert len(samples["tiny_writing"]) == 5
    assert all(sample["filtered_resps"][0] in made for sample in samples["tiny_writing"])


def test_tokenizer_endpoints(server, engine):
    url = f"http://127.0.0.1:{server.port}"
    info = httpx.get(f"{url}/tokenizer_info").json()
    assert info["bos_token"] == "<|end|>" and info["eos_token"] == "<|im_end|>" and "tool_call" in info["chat_template"]
    ask = lambda body: httpx.post(f"{url}/tokenize", json=body).json()["tokens"]  # noqa: E731
    assert ask({"prompt": "<|im_end|>"}) == [2]
    literal = engine.vocabulary.encode("é <|im_end|>", literal=True)
    assert ask({"prompt": "é <|im_end|>", "add_special_tokens": False}) == literal and 2 not in literal
    assert ask({"prompt": "é <|im_end|>"}) == [0, *literal]
    assert httpx.post(f"{url}/detokenize", json={"tokens": [0, *literal]}).json() == {"prompt": "é <|im_end|>"}


def test_langchain_chats_completes_calls_and_embeds(server, engine):
    langchain = pytest.importorskip("langchain_openai")
    address = {"base_url": f"http://127.0.0.1:{server.port}/v1", "api_key": "none", "model": MODEL, "max_retries": 0}
    chat = langchain.ChatOpenAI(**address, seed=3)
    whole = chat.invoke([("system", "be brief"), ("user", "hi")])
    assert whole.content == engine.submitted[-1].text and whole.usage_metadata["output_tokens"] > 10
    assert "".join(chunk.text for chunk in chat.stream([("system", "be brief"), ("user", "hi")])) == whole.content
    assert langchain.OpenAI(**address, max_tokens=9).invoke("x") == engine.submitted[-1].text
    vectors = langchain.OpenAIEmbeddings(**address, check_embedding_ctx_length=False).embed_documents(["a", "bcd"])
    assert vectors == [[1.0, 0.5, -1.0], [3.0, 0.5, -1.0]]


def test_langchain_calls_tools_and_reads_json():
    langchain = pytest.importorskip("langchain_openai")
    pydantic = pytest.importorskip("pydantic")

    class Add(pydantic.BaseModel):
        """Adds."""

        a: int
        b: int

    def script(ids, settings):
        begun = scripted.vocabulary().tokenizer.decode(ids).endswith("<tool_call>\n")
        if settings.grammar is not None and not begun:
            return '{"a": 1, "b": 2}'
        call = '{"name": "Add", "arguments": {"a": 1, "b": 2}}'
        return call if begun else f"<tool_call>\n{call}\n</tool_call>"

    with servers.serve(scripted.ScriptedEngine(script, max_length=1024)) as server:
        url = f"http://127.0.0.1:{server.port}/v1"
        chat = langchain.ChatOpenAI(base_url=url, api_key="none", model=MODEL, max_retries=0)
        for choice in (None, "any", "Add"):
            answer = chat.bind_tools([Add], tool_choice=choice).invoke("add 1 and 2")
            assert [(call["name"], call["args"]) for call in answer.tool_calls] == [("Add", {"a": 1, "b": 2})]
        for method in ("function_calling", "json_schema"):
            assert chat.with_structured_output(Add, method=method).invoke("add 1 and 2") == Add(a=1, b=2)
