"""Rows of instructions and chats against their examples: every segment equals one example on its own."""

import collections
import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from t5x_like.data.cache import token_cache
from t5x_like.data.cache import writer as cache_writer
from t5x_like.data.cache.token_cache import TokenCache
from t5x_like.data.chats import masks
from t5x_like.data.rows.chat import PackedConversations
from t5x_like.data.tokenizers import training
from t5x_like.data.tokenizers.vocabularies import ByteVocabulary, start_id
from tests import tiny_cache
from tests.data.tokenizers import tiny_tokenizers

BYTES = ByteVocabulary()


def write(root, task, vocabulary, features, examples) -> TokenCache:
    inputs = {"task": task, "modules": {}, "versions": {}}
    folder = Path(root) / task / token_cache.fingerprint_of(inputs) / "train"
    folder.mkdir(parents=True)
    arrays = [{name: np.asarray(ids, np.int64) for name, ids in example.items()} for example in examples]
    cache_writer.write(folder, task, "train", inputs, vocabulary, features, arrays)
    return TokenCache(task, "train", root=str(root))


def chats(count, seed):
    """Random chats of a few turns."""
    random = np.random.default_rng(seed)
    texts = iter(tiny_cache.documents(count * 8, seed, 6))
    for _ in range(count):
        turns = int(random.integers(1, 4))
        messages = [{"role": role, "content": next(texts)} for _ in range(turns) for role in ("user", "assistant")]
        if random.random() < 0.3:
            messages.insert(0, {"role": "system", "content": next(texts)})
        yield messages + [{"role": "user", "content": next(texts)}] * int(random.random() < 0.3)


def masked(root, task, vocabulary) -> TokenCache:
    pairs = [masks.conversation_ids(vocabulary, messages) for messages in chats(80, 1)]
    pairs.append(([5, 6, 7], [0, 0, 0]))  # no token to predict
    examples = [{"targets": ids, "targets_mask": mask} for ids, mask in pairs]
    return write(root, task, vocabulary, ["targets", "targets_mask"], examples)


@pytest.fixture(scope="module")
def caches(tmp_path_factory):
    """Pairs, chats without a template, and chats with one; each with an example that has no token to predict."""
    root = tmp_path_factory.mktemp("caches")
    texts = [tiny_cache.documents(90, seed, 8) for seed in (2, 3)]
    pairs = [{"inputs": BYTES.encode(a), "targets": [*BYTES.encode(b), BYTES.eos]} for a, b in zip(*texts, strict=True)]
    pairs += [{"inputs": [9, 9], "targets": []}, {"inputs": [], "targets": [8, 1]}]
    trained = training.train("bpe", tiny_tokenizers.TEXTS, 330, chat=True)
    return {
        "pairs": write(root, "pairs", BYTES, ["inputs", "targets"], pairs),
        "plain": masked(root, "plain", BYTES),
        "template": masked(root, "template", trained),
    }


def documents(cache, feature):
    flat, offsets = np.asarray(cache.tokens(feature)).tolist(), cache.offsets(feature)
    return [flat[a:b] for a, b in itertools.pairwise(offsets)]


def split_examples(cache, length, everything=False):
    """(inputs, targets, weights, tokens cut on the left and right) of every example, by a loop; None if dropped."""
    first, own = [start_id(cache.vocabulary)], cache.vocabulary.chat_template is not None
    if "inputs" in cache.features:
        examples = zip(documents(cache, "inputs"), documents(cache, "targets"), strict=True)
        examples = [(first, a + b, [0] * len(a) + [1] * len(b)) for a, b in examples]
    else:
        both = zip(documents(cache, "targets"), documents(cache, "targets_mask"), strict=True)
        examples = [(ids[:1], ids[1:], mask[1:]) if own else (first, ids, mask) for ids, mask in both]
    for before, ids, mask in examples:
        if not (ids if everything else any(mask)):
            yield None
            continue
        inputs, left, right = [*before, *ids][:-1], 0, 0
        while len(ids) > length and not mask[0]:
            inputs = (ids[:1] if own else first) + inputs[2:]
            ids, mask, left = ids[1:], mask[1:], left + 1
        while len(ids) > length:
            inputs, ids, mask, right = inputs[:-1], ids[:-1], mask[:-1], right + 1
        yield tuple(inputs), tuple(ids), tuple([1] * len(ids) if everything else mask), left, right


def segments(batch):
    """(inputs, targets, weights) of every segment of a batch."""
    for row in range(len(batch["decoder_segment_ids"])):
        names = [
            f"decoder_{name}" for name in ("input_tokens", "target_tokens", "loss_weights", "positions", "segment_ids")
        ]
        inputs, targets, weights, positions, ids = (batch[name][row] for name in names)
        assert not np.any([x[ids == 0] for x in (inputs, targets, weights, positions)])
        real = ids[ids > 0]
        assert (ids[: len(real)] > 0).all() and set(np.diff(real, prepend=0)) <= {0, 1}
        for segment in range(1, ids.max() + 1):
            here = ids == segment
            assert positions[here].tolist() == list(range(here.sum()))
            yield tuple(inputs[here].tolist()), tuple(targets[here].tolist()), tuple(weights[here].astype(int).tolist())


def everything(rows):
    return rows.fetch(np.arange(len(rows)), np.zeros(len(rows), np.int64), 0)


@pytest.mark.parametrize("loss_on_inputs", [False, True])
@pytest.mark.parametrize("length", [40, 64, 400])
@pytest.mark.parametrize("kind", ["pairs", "plain", "template"])
def test_every_segment_is_one_example_on_its_own(caches, kind, length, loss_on_inputs):
    cache = caches[kind]
    rows = PackedConversations(cache, length, loss_on_inputs)
    slow = list(split_examples(cache, length, loss_on_inputs))
    kept = [one for one in slow if one]
    assert collections.Counter(segments(everything(rows))) == collections.Counter(one[:3] for one in kept)
    assert rows.dropped_examples == len(slow) - len(kept) == int(not loss_on_inputs)
    left, right = (sum(one[place] for one in kept) for place in (3, 4))
    assert rows.truncated_tokens == (
        {"inputs": left, "targets": right} if kind == "pairs" else {"targets": left + right}
    )
    assert (left > 0) == (length < 400)
    tokens = sum(len(cache.tokens(name)) for name in rows.task_features)
    assert rows.used_tokens + rows.unused_tokens + sum(rows.truncated_tokens.values()) == tokens
    assert rows.unused_tokens == (0 if loss_on_inputs else {"pairs": 2, "plain": 3, "template": 3}[kind])
    assert rows.report["dropped"] == rows.dropped_examples


def whole(cache, length):
    """What `split_examples` yields if examples end with the last answer that fits; None for what has none."""
    for one in split_examples(cache, 10**6):
        if one is None:
            yield None
            continue
        inputs, ids, weights, *_ = one
        ends = [i + 1 for i in range(len(ids)) if weights[i] and not any(weights[i + 1 : i + 2])]
        fits = [len(ids)] if len(ids) <= length else [end for end in ends if end <= length]
        yield tuple(x[: fits[-1]] for x in (inputs, ids, weights)) if fits else None


@pytest.mark.parametrize("loss_on_inputs", [False, True])
@pytest.mark.parametrize("length", [40, 64, 400])
@pytest.mark.parametrize("kind", ["plain", "template"])
def test_whole_turns_are_kept_or_left_out(caches, kind, length, loss_on_inputs):
    rows = PackedConversations(caches[kind], length, loss_on_inputs, whole_turns=True)
    expected = list(whole(caches[kind], length))
    found = collections.Counter(one[:2] for one in segments(everything(rows)))
    kept = collections.Counter(one[:2] for one in expected if one)
    without = collections.Counter() if not loss_on_inputs else found - kept
    assert found == kept + without and without.total() == int(loss_on_inputs)
    assert rows.too_long == expected.count(None) - 1 and rows.dropped_examples == rows.too_long + int(
        not loss_on_inputs
    )
    assert rows.report["too_long"] == rows.too_long
    assert (rows.too_long + sum(rows.truncated_tokens.values()) > 0) == (length < 400)
    tokens = sum(len(rows.cache.tokens(name)) for name in rows.task_features)
    assert rows.used_tokens + rows.unused_tokens + sum(rows.truncated_tokens.values()) == tokens
    assert rows.used_tokens == sum(len(ids) + rows.start_tokens for _, ids, _ in segments(everything(rows)))


def test_pairs_are_cut_with_whole_turns_too(caches):
    rows, other = (PackedConversations(caches["pairs"], 40, whole_turns=whole) for whole in (True, False))
    np.testing.assert_array_equal(everything(rows)["decoder_target_tokens"], everything(other)["decoder_target_tokens"])
    assert rows.report == other.report and rows.too_long == 0


def test_rows_that_hold_no_turn_are_refused(caches):
    rows = PackedConversations(caches["plain"], 2, whole_turns=True)
    with pytest.raises(ValueError, match="has a token to predict; 81 do not fit in length=2: give a larger one"):
        len(rows)


@pytest.mark.parametrize("kind", ["plain", "template"])
def test_the_loss_is_on_the_assistants_messages(caches, kind):
    rows = PackedConversations(caches[kind], 400)
    answers = collections.Counter()
    for _, targets, weights in segments(everything(rows)):
        run = []
        for token, weight in zip(targets, weights, strict=True):
            run += [token] * weight
            if weight and token in rows.vocabulary.stop_ids:
                answers[rows.vocabulary.decode(run)] += 1
                run = []
        assert not run
    messages = (message for messages in chats(80, 1) for message in messages)
    assert answers == collections.Counter(message["content"] for message in messages if message["role"] == "assistant")


def test_the_loss_of_pairs_is_on_their_targets(caches):
    rows = PackedConversations(caches["pairs"], 200)
    answers = [BYTES.decode(np.array(ids)[np.array(weights) > 0]) for _, ids, weights in segments(everything(rows))]
    assert sorted(answers) == sorted([*tiny_cache.documents(90, 3, 8), BYTES.decode([8])])


@pytest.mark.parametrize("kind", ["pairs", "plain", "template"])
def test_the_prefix_is_the_context_before_the_first_answer(caches, kind):
    with_prefix, without = (
        everything(PackedConversations(caches[kind], 64, prefix=prefix)) for prefix in (True, False)
    )
    prefix = with_prefix.pop("decoder_prefix")
    assert all(np.array_equal(with_prefix[name], without[name]) for name in without)
    ids, weights, positions = (without[f"decoder_{name}"] for name in ("segment_ids", "loss_weights", "positions"))
    for row in range(len(ids)):
        for segment in range(1, ids[row].max() + 1):
            here = ids[row] == segment
            first = np.flatnonzero(weights[row][here])[0]
            assert prefix[row][here].tolist() == (positions[row][here] <= first).astype(int).tolist()
    assert not prefix[ids == 0].any()


def test_rows_do_not_depend_on_order_or_epoch(caches):
    rows = PackedConversations(caches["plain"], 64)
    index = np.arange(len(rows))[::-2].copy()
    part, whole = rows.fetch(index, np.full(len(index), 3), 9), everything(rows)
    assert all(np.array_equal(part[name], whole[name][index]) for name in whole)
    other = dataclasses.replace(rows, packing_seed=1)
    assert not np.array_equal(everything(other)["decoder_target_tokens"][0], whole["decoder_target_tokens"][0])
    assert other.fingerprint != rows.fingerprint


def test_bad_tasks_and_options_are_refused(caches, tmp_path):
    with pytest.raises(ValueError, match="prefix=True and loss_on_inputs=True"):
        PackedConversations(caches["pairs"], 64, loss_on_inputs=True, prefix=True)
    with pytest.raises(ValueError, match="length=1 is too short"):
        PackedConversations(caches["pairs"], 1)
    texts = write(tmp_path, "texts", BYTES, ["targets"], [{"targets": [5]}])
    with pytest.raises(ValueError, match="'texts' has the features .'targets'.; PackedConversations needs"):
        len(PackedConversations(texts, 8))
    names = ["targets", "targets_mask"]
    short = write(tmp_path, "short", BYTES, names, [{"targets": [5, 6], "targets_mask": [1]}])
    with pytest.raises(ValueError, match="targets_mask is not as long as targets"):
        len(PackedConversations(short, 8))
    nothing = write(tmp_path, "nothing", BYTES, names, [{"targets": [5, 6], "targets_mask": [0, 0]}])
    with pytest.raises(ValueError, match="no example of task 'nothing'.* has a token to predict"):
        len(PackedConversations(nothing, 8))
