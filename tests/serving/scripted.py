"""An engine without a model: its completions are a function of the prompt and the settings, one token per tick for every row."""

import dataclasses
import functools
import hashlib
import math
import threading
import time
import types

import numpy as np

from t5x_like.data.tokenizers.huggingface import TokenizerVocabulary
from t5x_like.serving.requests import Completion, Delta, QueueFullError, Settings, Token
from t5x_like.serving.text import TextStream
from tests.data.tokenizers import tiny_tokenizers

TEMPLATE = """
{%- if tools %}{{- '<|im_start|>system\n' }}{%- for tool in tools %}{{ tool | tojson }}{{ '\n' }}{% endfor %}{{- '<|im_end|>' }}
{%- endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' + message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool_call>\n' + {'name': call.function.name, 'arguments': call.function.arguments} | tojson + '\n</tool_call>' }}
    {%- endfor %}
    {{- '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


@functools.cache
def vocabulary(template=TEMPLATE):
    """A byte-level vocabulary with a chat template; <|im_end|> ends a text."""
    return TokenizerVocabulary(
        tiny_tokenizers.byte_level().to_str(), 350, bos=0, eos=2, add_bos=True, chat_template=template
    )


def answer_of(ids, settings=Settings()) -> str:
    """Letters that depend on the prompt, the seed and the sample."""
    seed = repr((list(ids), settings.seed, settings.sample, settings.temperature)).encode()
    return " ".join(hashlib.sha256(seed + bytes([number])).hexdigest()[:9] for number in range(12))


class Ticket:
    """A request that the engine has accepted."""

    def __init__(self, ids, settings, on_delta, tokens, stream):
        self.ids, self.settings, self.on_delta, self.tokens, self.stream = ids, settings, on_delta, tokens, stream
        self.prompt_tokens, self.cached_tokens, self.cancelled, self.done = len(ids), 0, False, threading.Event()
        self.made, self.text = [], ""

    def cancel(self):
        self.cancelled = True

    def result(self, timeout=None):
        if not self.done.wait(timeout):
            raise TimeoutError
        return Completion(self.text, tuple(self.made), self.finish_reason, len(self.ids))

    def step(self):
        """Makes one token; whether the request has ended."""
        if self.cancelled:
            return self.give(Delta(finish_reason="cancelled"))
        if not self.tokens:  # the end of the turn
            return self.end(2, "stop")
        index = self.tokens.pop(0)
        if len(self.made) + 1 == self.settings.max_new_tokens:
            return self.end(index, "length")
        text = self.stream.push(index)
        if self.stream.stopped:
            return self.give(Delta(text, (self.token(index),), "stop"))
        return self.give(Delta(text, (self.token(index),)))

    def end(self, index, reason):
        text = self.stream.push(index) + self.stream.finish()
        return self.give(Delta(text, (self.token(index),), "stop" if self.stream.stopped else reason))

    def token(self, index):
        top = [(index, -0.25), *((other, -3.0) for other in (70, 71, 72) if other != index)]
        return Token(index, -0.25, -0.25, tuple(top[: self.settings.top_log_probs]))

    def give(self, delta):
        self.made += delta.tokens
        self.text += delta.text
        self.finish_reason = delta.finish_reason
        if self.on_delta is not None:
            self.on_delta(delta)
        if delta.finish_reason is not None:
            self.done.set()
        return delta.finish_reason is not None


class ScriptedEngine:
    """Writes `script(ids, settings)`; `tick` is the time of a token."""

    def __init__(self, script=answer_of, tick=0.0, slots=8, max_waiting=64, max_length=256, template=TEMPLATE):
        self.script, self.tick, self.slots, self.max_waiting, self.max_length = (
            script,
            tick,
            slots,
            max_waiting,
            max_length,
        )
        self.vocabulary = vocabulary(template)
        self.model = types.SimpleNamespace(encoder_decoder=False, vocab_size=350, sides=("decoder",))
        self.waiting, self.running, self.submitted = [], [], []
        self.changed, self.closing = threading.Condition(), False
        self.total = 0
        self.thread = threading.Thread(target=self.work, daemon=True)
        self.thread.start()

    def submit(self, prompt, settings, on_delta=None):
        if not prompt or not all(0 <= index < 350 for index in prompt):
            raise ValueError(f"the prompt has ids outside 0 .. 349: {list(prompt)[:3]}")
        if len(prompt) + settings.max_new_tokens > self.max_length:
            raise ValueError("too long")
        tokens = self.vocabulary.encode(self.script(prompt, settings), literal=True)
        ticket = Ticket(list(prompt), settings, on_delta, tokens, TextStream(self.vocabulary, settings.stop))
        with self.changed:
            if self.closing:
                raise RuntimeError("the engine is closed")
            if len(self.waiting) >= self.max_waiting:
                raise QueueFullError(len(self.waiting), 2.5)
            self.waiting.append(ticket)
            self.submitted.append(ticket)
            self.total += 1
            self.changed.notify()
        return ticket

    def work(self):
        while True:
            with self.changed:
                while not (self.waiting or self.running or self.closing):
                    self.changed.wait()
                if self.closing and not (self.waiting or self.running):
                    return
                while self.waiting and len(self.running) < self.slots:
                    self.running.append(self.waiting.pop(0))
            if self.tick:
                time.sleep(self.tick)
            self.running = [ticket for ticket in self.running if not ticket.step()]

    def statistics(self):
        now = {"running": len(self.running), "waiting": len(self.waiting), "slots": self.slots}
        return {**now, "requests_total": self.total}

    def score(self, rows, top):
        return [
            [
                dataclasses.replace(Token(index, -index / 100, math.nan), top=((index, -index / 100), (7, -9.0))[:top])
                for index in row[1:]
            ]
            for row in rows
        ]

    def embed(self, texts):
        if any("no vector" in text for text in texts):
            raise ValueError("the model has no embeddings")
        return np.array([[len(text), 0.5, -1.0] for text in texts], np.float32)

    def close(self, drain=True):
        with self.changed:
            self.closing = True
            for ticket in [] if drain else [*self.waiting, *self.running]:
                ticket.cancel()
            self.changed.notify()
        self.thread.join()
