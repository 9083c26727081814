"""Small tokenizers of each kind, trained by the `tokenizers` and `sentencepiece` libraries."""

import io

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
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
    """GPT-2's kind; the post-processor puts `bos` before a text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=350, special_tokens=list(special), initial_alphabet=alphabet, show_progress=False
        ),
    )
    if bos:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[bos, "$A"], special_tokens=[(bos, tokenizer.token_to_id(bos))]
        )
    return tokenizer


def chat_vocabulary() -> TokenizerVocabulary:
    """A tokenizer with special ids: 0 is eos, 1 and 2 surround the messages of a chat."""
    template = "{% for m in messages %}{{ '<|im_start|>' + m.role + ' ' + m.content + '<|im_end|>' }}{% endfor %}"
    text = byte_level().to_str()
    return TokenizerVocabulary(text, 384, eos=0, stop_ids=(0, 2), chat_template=template)


def wordpiece() -> Tokenizer:
    """BERT's kind."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    tokenizer.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=200, special_tokens=special, show_progress=False)
    )
    cls_and_sep = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=cls_and_sep
    )
    return tokenizer


def unigram() -> Tokenizer:
    """T5's kind, with sentinels at the top."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False),
    )
    tokenizer.add_special_tokens([f"<extra_id_{i}>" for i in reversed(range(4))])
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


def sentencepiece_file(kind: str, remove_extra_whitespaces: bool = False) -> bytes:
    """A SentencePiece model with the special ids of "t5" or "llama"."""
    import sentencepiece

    ids = {
        "t5": {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "model_type": "unigram"},
        "llama": {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1, "model_type": "bpe", "byte_fallback": True},
    }[kind]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS * 3),
        model_writer=model,
        vocab_size=420 if kind == "llama" else 120,
        normalization_rule_name="identity",
        remove_extra_whitespaces=remove_extra_whitespaces,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **ids,
    )
    return model.getvalue()
