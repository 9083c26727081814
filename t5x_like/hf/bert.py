"""BERT, RoBERTa, ALBERT and ELECTRA. Which heads a checkpoint has is read from its tensors' names."""

from collections.abc import Callable

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.family import Family
from t5x_like.hf.fields import Fields, activation_name
from t5x_like.hf.modules import Describe, at, kind, stacked, unstacked
from t5x_like.hf.table import Rules, Table, norm, weights, without_prefix
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, norms, positions, stack

FIRST = "encoder.layers.0"
# Multilingual BERT's configuration describes a pooler that its code does not have.
BERT_POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head")


def body(f: Fields, head: Callable, narrow: int, offset: int = 0, shared: bool = False, **rows):
    """A post-norm encoder whose tables are `narrow` wide; `rows` are a pooler and a classifier."""
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f("layer_norm_eps", 1e-12)
    f.only("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        f.only(name, False)
    f.only("chunk_size_feed_forward", 0)
    f.unused("chunk_size_feed_forward", "embedding_size")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, width // num_heads, use_bias=True, mask=masks.full)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=blocks.post)

    count = f("num_hidden_layers")
    widened = narrow != width or shared
    options = {
        "position": positions.Learned(f("max_position_embeddings") - offset, offset),
        "input_norm": norms.LayerNorm(epsilon),
        "projection": linear.Dense((width,), ("embed", "mlp"), use_bias=True) if widened else None,
        "norm": None,
    }
    tower = (
        stack.Stack(block=layer(), repeats=count, shared=True, **options)
        if shared
        else stacked([layer() for _ in range(count)], **options)
    )
    types = f("type_vocab_size", 2)
    return architectures.EncoderOnly(
        linear.Embed(f("vocab_size"), narrow),
        tower,
        head,
        linear.Embed(types, narrow) if types else None,
        **rows,
    )


def architecture(f: Fields) -> str:
    """The task that `architectures` names: "MaskedLM", "PreTraining", "SequenceClassification" or "Model"."""
    name = (f("architectures", ["Model"]) or ["Model"])[0]
    for task in ("MaskedLM", "LMHead", "PreTraining", "SequenceClassification", "Model"):
        if task in name:
            return "MaskedLM" if task == "LMHead" else task
    raise ValueError(f"{f.where}: architectures={name!r} is not supported; supported are encoders with these heads: "
                     "MaskedLM, PreTraining, SequenceClassification, or none")  # fmt: skip


def rows(f: Fields, pooler: str, classifier: str) -> dict[str, nn.Module | None]:
    """What the checkpoint has to say about a row as a whole, by fragments of the names of its tensors."""
    task = architecture(f)
    known = bool(f.names)
    pools = f.holds(pooler) if known else task in ("PreTraining", "SequenceClassification", "Model")
    classifies = f.holds(classifier) if known else task in ("PreTraining", "SequenceClassification")
    labels = len(f.values.get("id2label") or {}) or f.values.get("num_labels", 2)
    classes = labels if task == "SequenceClassification" else 2
    return {
        "pooler": heads.Pooler() if pools else None,
        "classifier": linear.Dense((classes,), ("embed", "router"), use_bias=True) if classifies else None,
    }


def masked(f: Fields, fragment: str, activation: Callable | None = None) -> Callable:
    """The masked-LM head where the checkpoint has one, otherwise none."""
    there = f.holds(fragment) if f.names else architecture(f) in ("MaskedLM", "PreTraining")
    if not there:
        return heads.states
    activation = activation or f.activation("hidden_act", "gelu")
    return heads.MaskedLM(activation, norms.LayerNorm(f("layer_norm_eps", 1e-12)))


def build_bert(f: Fields) -> nn.Module:
    classifier = "classifier" if architecture(f) == "SequenceClassification" else "seq_relationship"
    tied(f)
    f.unused("directionality", *(f"pooler_{x}" for x in BERT_POOLER))
    f.only("pooler_type", "first_token_transform")
    return body(f, masked(f, "cls.predictions."), f("hidden_size"), **rows(f, "pooler.", classifier))


def tied(f: Fields) -> None:
    f.only("tie_word_embeddings", True)


def build_roberta(f: Fields) -> nn.Module:
    """RoBERTa counts positions from the padding id + 1, and pads with id 1."""
    tied(f)
    head = masked(f, "lm_head.", mlp.gelu)
    pooler = {"pooler": heads.Pooler() if f.holds("pooler.") else None}
    return body(f, head, f("hidden_size"), offset=f("pad_token_id", 1) + 1, **pooler)


def build_albert(f: Fields) -> nn.Module:
    tied(f)
    for name in ("num_hidden_groups", "inner_group_num"):
        f.only(name, 1)
    f.defaults(hidden_act="gelu_new")
    f.unused("layers_to_keep", "down_scale_factor", "net_structure_type", "gap_size", "num_memory_blocks")
    classifier = "classifier."
    return body(f, masked(f, "predictions."), f("embedding_size", 128), shared=True, **rows(f, "pooler.", classifier))


def build_electra(f: Fields) -> nn.Module:
    tied(f)
    if f.holds("discriminator_predictions.") or (not f.names and architecture(f) == "PreTraining"):
        head: Callable = heads.Detector(f.activation("hidden_act", "gelu"))
    else:
        head = masked(f, "generator_predictions.", mlp.gelu)
    return body(f, head, f("embedding_size", 128))


def task_name(family: str) -> Callable[[nn.Module], list[str]]:
    """The architecture that has the model's heads."""

    def name(model: nn.Module) -> list[str]:
        head = "" if kind(model.head) == "function" else kind(model.head)
        if head == "Detector" or (head and model.classifier is not None):
            return [f"{family}ForPreTraining"]
        if head:
            return [f"{family}ForMaskedLM"]
        return [f"{family}ForSequenceClassification" if model.classifier is not None else f"{family}Model"]

    return name


def labels(model: nn.Module) -> dict[str, str]:
    classes = 2 if model.classifier is None else model.classifier.features[0]
    return {str(i): f"LABEL_{i}" for i in range(classes)}


DESCRIBE: Describe = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": lambda model: at(model, f"{FIRST}.mixer.num_heads") * at(model, f"{FIRST}.mixer.head_dim"),
    "num_hidden_layers": lambda model: len(unstacked(model.encoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "intermediate_size": f"{FIRST}.mlp.hidden_dim",
    "hidden_act": lambda model: activation_name(at(model, FIRST).mlp.activation),
    "layer_norm_eps": "encoder.input_norm.epsilon",
    "max_position_embeddings": lambda model: model.encoder.position.max_length + model.encoder.position.offset,
    "type_vocab_size": lambda model: 0 if model.token_types is None else model.token_types.vocab_size,
    "tie_word_embeddings": lambda model: True,
    "id2label": labels,
}
NARROW: Describe = {"embedding_size": "embed.width"}
PADDED: Describe = {"pad_token_id": lambda model: model.encoder.position.offset - 1}


def tables(prefix: str) -> Rules:
    """Words, positions, types and the norm behind them."""
    theirs = f"{prefix}.embeddings"
    return {
        f"{theirs}.word_embeddings.weight": ("embed.table", ops.same),
        f"{theirs}.position_embeddings.weight": ("encoder.position.table", ops.same),
        f"{theirs}.token_type_embeddings.weight": ("token_types.table", ops.same),
        **norm(f"{theirs}.LayerNorm", "encoder.input_norm"),
    }


def layers(prefix: str) -> Rules:
    """BERT's layer, which RoBERTa and ELECTRA share."""
    theirs, ours = f"{prefix}.encoder.layer.{{}}.", "encoder.{}."
    return {
        **weights(theirs + "attention.self.query", ours + "mixer.query"),
        **weights(theirs + "attention.self.key", ours + "mixer.key"),
        **weights(theirs + "attention.self.value", ours + "mixer.value"),
        **weights(theirs + "attention.output.dense", ours + "mixer.out", ops.linear(2)),
        **norm(theirs + "attention.output.LayerNorm", ours + "mixer_norm"),
        **weights(theirs + "intermediate.dense", ours + "mlp.up"),
        **weights(theirs + "output.dense", ours + "mlp.down"),
        **norm(theirs + "output.LayerNorm", ours + "mlp_norm"),
    }


def lm_head(dense: str, normed: str, bias: str) -> Rules:
    return {
        **weights(dense, "head.transform"),
        **norm(normed, "head.norm"),
        bias: ("head.output.bias", ops.same),
    }


BERT: Rules = {
    **tables("bert"),
    **layers("bert"),
    **weights("bert.pooler.dense", "pooler.transform"),
    **lm_head("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
}
NEXT = weights("cls.seq_relationship", "classifier")
LABELS = weights("classifier", "classifier")
ROBERTA: Rules = {
    **tables("roberta"),
    **layers("roberta"),
    **weights("roberta.pooler.dense", "pooler.transform"),
    **lm_head("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}
GROUP = "albert.encoder.albert_layer_groups.0.albert_layers.{}."
ALBERT: Rules = {
    **tables("albert"),
    **weights("albert.encoder.embedding_hidden_mapping_in", "encoder.projection"),
    **weights(GROUP + "attention.query", "encoder.{}.mixer.query"),
    **weights(GROUP + "attention.key", "encoder.{}.mixer.key"),
    **weights(GROUP + "attention.value", "encoder.{}.mixer.value"),
    **weights(GROUP + "attention.dense", "encoder.{}.mixer.out", ops.linear(2)),
    **norm(GROUP + "attention.LayerNorm", "encoder.{}.mixer_norm"),
    **weights(GROUP + "ffn", "encoder.{}.mlp.up"),
    **weights(GROUP + "ffn_output", "encoder.{}.mlp.down"),
    **norm(GROUP + "full_layer_layer_norm", "encoder.{}.mlp_norm"),
    **weights("albert.pooler", "pooler.transform"),
    **lm_head("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
}
ELECTRA: Rules = {
    **tables("electra"),
    **layers("electra"),
    **weights("electra.embeddings_project", "encoder.projection"),
    **lm_head("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    **weights("discriminator_predictions.dense", "head.transform"),
    **weights("discriminator_predictions.dense_prediction", "head.output"),
}
IDS = r".*embeddings\.position_ids|.*embeddings\.token_type_ids"


def copies(prefix: str, decoder: str, bias: str) -> dict[str, str]:
    """A masked-LM head's table and bias, stored once more."""
    return {rf"{decoder}\.weight": f"{prefix}.embeddings.word_embeddings.weight", rf"{decoder}\.bias": bias}


def named_by(model: nn.Module, table: Table) -> Table:
    """The table; without the prefix for a model that has no head."""
    return without_prefix(table, ()) if kind(model.head) == "function" and model.classifier is None else table


def bert_table(model: nn.Module) -> Table:
    has_lm = kind(model.head) == "MaskedLM"
    rules = BERT | (NEXT if has_lm else LABELS)
    return named_by(
        model, Table(rules, copies("bert", r"cls\.predictions\.decoder", "cls.predictions.bias"), IDS, "bert.")
    )


def albert_table(model: nn.Module) -> Table:
    has_lm = kind(model.head) == "MaskedLM"
    rules = ALBERT | (weights("sop_classifier.classifier", "classifier") if has_lm else LABELS)
    return named_by(model, Table(rules, copies("albert", r"predictions\.decoder", "predictions.bias"), IDS, "albert."))


def roberta_table(model: nn.Module) -> Table:
    return named_by(model, Table(ROBERTA, copies("roberta", r"lm_head\.decoder", "lm_head.bias"), IDS, "roberta."))


def electra_table(model: nn.Module) -> Table:
    unwanted = "generator" if kind(model.head) == "Detector" else "discriminator"
    rules = {name: rule for name, rule in ELECTRA.items() if not name.startswith(unwanted)}
    table = "electra.embeddings.word_embeddings.weight"
    return named_by(model, Table(rules, {r"generator_lm_head\.weight": table}, IDS, "electra."))


FAMILIES = (
    Family("bert", build_bert, DESCRIBE | {"architectures": task_name("Bert")}, bert_table),
    Family("roberta", build_roberta, DESCRIBE | PADDED | {"architectures": task_name("Roberta")}, roberta_table),
    Family("xlm-roberta", build_roberta, DESCRIBE | PADDED | {"architectures": task_name("XLMRoberta")}, roberta_table),
    Family("albert", build_albert, DESCRIBE | NARROW | {"architectures": task_name("Albert")}, albert_table),
    Family("electra", build_electra, DESCRIBE | NARROW | {"architectures": task_name("Electra")}, electra_table),
)
