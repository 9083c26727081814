"""Makes masks.json: the ids and masks that transformers gives chats (transformers 5.23, tokenizers 0.22).

PYTHONPATH=. python tests/data/chats/make_masks.py, in an environment with transformers. Templates are those of chat_templates,
with {% generation %} blocks, which `return_assistant_tokens_mask` needs.
"""

import json
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tests.data.chats import chat_templates


def make_tokenizer() -> Tokenizer:
    """A byte-level BPE of the chats' texts, with the control tokens of the templates."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=list(chat_templates.NAMES),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*chat_templates.TEXTS, "assistant user system model"] * 3, trainer)
    return tokenizer


def main() -> None:
    """Writes the file."""
    tokenizer = make_tokenizer()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>")
    results = {}
    for shape in chat_templates.SHAPES:
        results[shape] = []
        for messages in chat_templates.chats():
            encoded = fast.apply_chat_template(
                messages,
                chat_template=chat_templates.template(shape, marked=True),
                tokenize=True,
                return_dict=True,
                return_assistant_tokens_mask=True,
            )
            plain = fast.apply_chat_template(
                messages, chat_template=chat_templates.template(shape), tokenize=True, return_dict=True
            )
            assert plain["input_ids"] == encoded["input_ids"], shape
            results[shape].append({"ids": encoded["input_ids"], "mask": encoded["assistant_masks"]})
    path = Path(__file__).with_name("masks.json")
    path.write_text(json.dumps({"tokenizer": json.loads(tokenizer.to_str()), "chats": results}) + "\n")


if __name__ == "__main__":
    main()
