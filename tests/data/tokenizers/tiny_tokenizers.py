"""Tokenizers of a few words, trained by the `tokenizers` and `sentencepiece` libraries; one of each kind."""

import io

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from tests import tiny_cache

TEXTS = [*tiny_cache.documents(40), "Naïve café 12 345!", "日本 🙂 x = {1: 2}\n\tpass\n", "the quick brown fox's tail"]
VARIED = [
    "def f(x):\n    return x**2 + 31.4e-10\n\n\n\tpass  ",
    "it's 2024, we'll see ½ ² ٣٤ Ⅷ",
    "naïve — “quotes” … 日本語 👩‍👩‍👧 \u00a0x\u2028y\r\n",
    "",
    " ",
    "<|im_start|>user\nHi<|im_end|>",
    "a<s>b</s>",
]


def byte_level(special=("<|end|>", "<|im_start|>", "<|im_end|>"), bos=None) -> Tokenizer:
    """GPT-2's kind; `bos` is put before a text by the post-processor."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=350, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def wordpiece() -> Tokenizer:
    """BERT's kind."""
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    around = [(name, made.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=around
    )
    return made


def unigram() -> Tokenizer:
    """T5's kind, with its sentinels on top."""
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    made.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(4))])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def sentencepiece_file(kind: str) -> bytes:
    """A SentencePiece model with the special ids of "t5" or "llama"."""
    import sentencepiece

    ids = {
        "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "model_type": "unigram"},
        "llama": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "model_type": "bpe", "byte_fallback": True},
    }[kind]
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=made,
        vocab_size=420 if kind == "llama" else 120,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **ids,
    )
    return made.getvalue()
