"""BERT, RoBERTa, ALBERT and ELECTRA. The names of the tensors determine the heads of a checkpoint."""

from collections.abc import Callable
from typing import Any

from flax import linen as nn

from t5x_like.hf import ops
from t5x_like.hf.dropout import Rates
from t5x_like.hf.family import Family
from t5x_like.hf.fields import MAX_COUNT, Fields, activation_name
from t5x_like.hf.modules import Description, class_name, get_path, stack_layers, unstack_layers
from t5x_like.hf.table import Rules, Table, linear_rules, norm_rules, remove_prefix
from t5x_like.models import architectures, attention, blocks, heads, linear, masks, mlp, norms, positions, stack

FIRST = "encoder.layers.0"
# Multilingual BERT's configuration describes a pooler that its code does not implement.
BERT_POOLER = ("fc_size", "num_attention_heads", "num_fc_layers", "size_per_head")


def build_encoder(
    f: Fields,
    head: Callable,
    embed_width: int,
    offset: int = 0,
    shared: bool = False,
    pooler: nn.Module | None = None,
    classifier: nn.Module | None = None,
) -> architectures.EncoderOnly:
    """Builds a post-norm encoder with embedding tables of width `embed_width`."""
    width, num_heads, epsilon = f("hidden_size"), f("num_attention_heads"), f.epsilon("layer_norm_eps", 1e-12)
    head_dim = f.split("hidden_size", width, "num_attention_heads", num_heads)
    f.expect("position_embedding_type", "absolute")
    for name in ("is_decoder", "add_cross_attention"):
        f.expect(name, False)
    f.expect("chunk_size_feed_forward", 0)
    f.ignore("chunk_size_feed_forward", "embedding_size")

    def layer() -> nn.Module:
        mixer = attention.SelfAttention(num_heads, head_dim, use_bias=True, mask=masks.full)
        dense = mlp.Mlp(f("intermediate_size"), f.activation("hidden_act", "gelu"), use_bias=True)
        return blocks.Block(mixer=mixer, mlp=dense, norm=norms.LayerNorm(epsilon), placement=blocks.post)

    count = f("num_hidden_layers", high=MAX_COUNT) if shared else f.count("num_hidden_layers")
    widened = embed_width != width or shared
    options: dict[str, Any] = {
        "position": positions.Learned(f("max_position_embeddings", low=offset + 1) - offset, offset),
        "input_norm": norms.LayerNorm(epsilon),
        "projection": linear.Dense((width,), ("embed", "mlp"), use_bias=True) if widened else None,
        "norm": None,
    }
    tower = (
        stack.Stack(block=layer(), repeats=count, shared=True, **options)
        if shared
        else stack_layers([layer() for _ in range(count)], **options)
    )
    types = f("type_vocab_size", 2, low=0)
    return architectures.EncoderOnly(
        linear.Embed(f("vocab_size"), embed_width),
        tower,
        head,
        linear.Embed(types, embed_width) if types else None,
        pooler=pooler,
        classifier=classifier,
    )


def read_task(f: Fields) -> str:
    """Returns the task in `architectures`: "MaskedLM", "PreTraining", "SequenceClassification" or "Model"."""
    name = (f("architectures", ["Model"]) or ["Model"])[0]
    for task in ("MaskedLM", "LMHead", "PreTraining", "SequenceClassification", "Model"):
        if task in name:
            return "MaskedLM" if task == "LMHead" else task
    raise ValueError(f"{f.where}: architectures={name!r} is not supported; supported are encoders with these heads: "
                     "MaskedLM, PreTraining, SequenceClassification, or none")  # fmt: skip


def row_heads(f: Fields, pooler: str, classifier: str) -> tuple[nn.Module | None, nn.Module | None]:
    """Returns the pooler and the classifier of the checkpoint, given fragments of the names of their tensors."""
    task = read_task(f)
    pools = f.has_tensor(pooler) if f.names else task in ("PreTraining", "SequenceClassification", "Model")
    classifies = f.has_tensor(classifier) if f.names else task in ("PreTraining", "SequenceClassification")
    labels = len(f("id2label", {})) or f("num_labels", 2)
    classes = labels if task == "SequenceClassification" else 2
    return (
        heads.Pooler() if pools else None,
        linear.Dense((classes,), ("embed", "router"), use_bias=True) if classifies else None,
    )


def masked_lm_head(f: Fields, fragment: str, activation: Callable | None = None) -> Callable:
    """Returns the masked-LM head if the checkpoint has one, else no head."""
    present = f.has_tensor(fragment) if f.names else read_task(f) in ("MaskedLM", "PreTraining")
    if not present:
        return heads.states
    activation = activation or f.activation("hidden_act", "gelu")
    return heads.MaskedLM(activation, norms.LayerNorm(f.epsilon("layer_norm_eps", 1e-12)))


def build_bert(f: Fields) -> nn.Module:
    """Builds BERT."""
    expect_tied(f)
    f.ignore("directionality", *(f"pooler_{x}" for x in BERT_POOLER))
    f.expect("pooler_type", "first_token_transform")
    head = masked_lm_head(f, "cls.predictions.")
    classifier_name = "classifier" if read_task(f) == "SequenceClassification" else "seq_relationship"
    pooler, classifier = row_heads(f, "pooler.", classifier_name)
    return build_encoder(f, head, f("hidden_size"), pooler=pooler, classifier=classifier)


def expect_tied(f: Fields) -> None:
    """Rejects an untied head."""
    f.expect("tie_word_embeddings", True)


def build_roberta(f: Fields) -> nn.Module:
    """Builds RoBERTa, whose positions start at the padding id + 1."""
    expect_tied(f)
    head = masked_lm_head(f, "lm_head.", mlp.gelu)
    pooler = heads.Pooler() if f.has_tensor("pooler.") else None
    return build_encoder(f, head, f("hidden_size"), offset=f("pad_token_id", 1, low=0) + 1, pooler=pooler)


def build_albert(f: Fields) -> nn.Module:
    """Builds ALBERT, whose layers share their parameters."""
    expect_tied(f)
    for name in ("num_hidden_groups", "inner_group_num"):
        f.expect(name, 1)
    f.set_defaults(hidden_act="gelu_new")
    f.ignore("layers_to_keep", "down_scale_factor", "net_structure_type", "gap_size", "num_memory_blocks")
    head = masked_lm_head(f, "predictions.")
    pooler, classifier = row_heads(f, "pooler.", "classifier.")
    return build_encoder(f, head, f("embedding_size", 128), shared=True, pooler=pooler, classifier=classifier)


def build_electra(f: Fields) -> nn.Module:
    """Builds an ELECTRA discriminator or generator."""
    expect_tied(f)
    if f.has_tensor("discriminator_predictions.") or (not f.names and read_task(f) == "PreTraining"):
        head: Callable = heads.Detector(f.activation("hidden_act", "gelu"))
    else:
        head = masked_lm_head(f, "generator_predictions.", mlp.gelu)
    return build_encoder(f, head, f("embedding_size", 128))


def architecture_field(family: str) -> Description:
    """The field `architectures`: the class of the family with the model's heads."""

    def name(model: nn.Module) -> list[str]:
        head = "" if class_name(model.head) == "function" else class_name(model.head)
        if head == "Detector" or (head and model.classifier is not None):
            return [f"{family}ForPreTraining"]
        if head:
            return [f"{family}ForMaskedLM"]
        return [f"{family}ForSequenceClassification" if model.classifier is not None else f"{family}Model"]

    return {"architectures": name}


def label_names(model: nn.Module) -> dict[str, str]:
    """id2label of the classifier."""
    classes = 2 if model.classifier is None else model.classifier.features[0]
    return {str(i): f"LABEL_{i}" for i in range(classes)}


DESCRIPTION: Description = {
    "vocab_size": "embed.vocab_size",
    "hidden_size": lambda model: (
        get_path(model, f"{FIRST}.mixer.num_heads") * get_path(model, f"{FIRST}.mixer.head_dim")
    ),
    "num_hidden_layers": lambda model: len(unstack_layers(model.encoder)),
    "num_attention_heads": f"{FIRST}.mixer.num_heads",
    "intermediate_size": f"{FIRST}.mlp.hidden_dim",
    "hidden_act": lambda model: activation_name(get_path(model, FIRST).mlp.activation),
    "layer_norm_eps": "encoder.input_norm.epsilon",
    "max_position_embeddings": lambda model: model.encoder.position.max_length + model.encoder.position.offset,
    "type_vocab_size": lambda model: 0 if model.token_types is None else model.token_types.vocab_size,
    "tie_word_embeddings": lambda model: True,
    "id2label": label_names,
}
EMBEDDING_SIZE: Description = {"embedding_size": "embed.width"}
PAD_TOKEN: Description = {"pad_token_id": lambda model: model.encoder.position.offset - 1}


def embedding_rules(prefix: str) -> Rules:
    """The rules of the word, position and type embeddings and of the norm after them."""
    tensor = f"{prefix}.embeddings"
    return {
        f"{tensor}.word_embeddings.weight": ("embed.table", ops.identity),
        f"{tensor}.position_embeddings.weight": ("encoder.position.table", ops.identity),
        f"{tensor}.token_type_embeddings.weight": ("token_types.table", ops.identity),
        **norm_rules(f"{tensor}.LayerNorm", "encoder.input_norm"),
    }


def layer_rules(prefix: str) -> Rules:
    """The rules of the layers of BERT, RoBERTa and ELECTRA."""
    tensor, param = f"{prefix}.encoder.layer.{{}}.", "encoder.{}."
    return {
        **linear_rules(tensor + "attention.self.query", param + "mixer.query"),
        **linear_rules(tensor + "attention.self.key", param + "mixer.key"),
        **linear_rules(tensor + "attention.self.value", param + "mixer.value"),
        **linear_rules(tensor + "attention.output.dense", param + "mixer.out", ops.linear(2)),
        **norm_rules(tensor + "attention.output.LayerNorm", param + "mixer_norm"),
        **linear_rules(tensor + "intermediate.dense", param + "mlp.up"),
        **linear_rules(tensor + "output.dense", param + "mlp.down"),
        **norm_rules(tensor + "output.LayerNorm", param + "mlp_norm"),
    }


def lm_head_rules(dense: str, normed: str, bias: str) -> Rules:
    """The rules of a masked-LM head."""
    return {
        **linear_rules(dense, "head.transform"),
        **norm_rules(normed, "head.norm"),
        bias: ("head.output.bias", ops.identity),
    }


BERT: Rules = {
    **embedding_rules("bert"),
    **layer_rules("bert"),
    **linear_rules("bert.pooler.dense", "pooler.transform"),
    **lm_head_rules("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias"),
}
NEXT_SENTENCE = linear_rules("cls.seq_relationship", "classifier")
SENTENCE_ORDER = linear_rules("sop_classifier.classifier", "classifier")
LABELS = linear_rules("classifier", "classifier")
ROBERTA: Rules = {
    **embedding_rules("roberta"),
    **layer_rules("roberta"),
    **linear_rules("roberta.pooler.dense", "pooler.transform"),
    **lm_head_rules("lm_head.dense", "lm_head.layer_norm", "lm_head.bias"),
}
ALBERT_LAYER = "albert.encoder.albert_layer_groups.0.albert_layers.{}."
ALBERT: Rules = {
    **embedding_rules("albert"),
    **linear_rules("albert.encoder.embedding_hidden_mapping_in", "encoder.projection"),
    **linear_rules(ALBERT_LAYER + "attention.query", "encoder.{}.mixer.query"),
    **linear_rules(ALBERT_LAYER + "attention.key", "encoder.{}.mixer.key"),
    **linear_rules(ALBERT_LAYER + "attention.value", "encoder.{}.mixer.value"),
    **linear_rules(ALBERT_LAYER + "attention.dense", "encoder.{}.mixer.out", ops.linear(2)),
    **norm_rules(ALBERT_LAYER + "attention.LayerNorm", "encoder.{}.mixer_norm"),
    **linear_rules(ALBERT_LAYER + "ffn", "encoder.{}.mlp.up"),
    **linear_rules(ALBERT_LAYER + "ffn_output", "encoder.{}.mlp.down"),
    **norm_rules(ALBERT_LAYER + "full_layer_layer_norm", "encoder.{}.mlp_norm"),
    **linear_rules("albert.pooler", "pooler.transform"),
    **lm_head_rules("predictions.dense", "predictions.LayerNorm", "predictions.bias"),
}
ELECTRA: Rules = {
    **embedding_rules("electra"),
    **layer_rules("electra"),
    **linear_rules("electra.embeddings_project", "encoder.projection"),
    **lm_head_rules("generator_predictions.dense", "generator_predictions.LayerNorm", "generator_lm_head.bias"),
    **linear_rules("discriminator_predictions.dense", "head.transform"),
    **linear_rules("discriminator_predictions.dense_prediction", "head.output"),
}
IGNORED = r".*embeddings\.position_ids|.*embeddings\.token_type_ids"


def head_aliases(prefix: str, decoder: str, bias: str) -> dict[str, str]:
    """The aliases of a masked-LM head: copies of its table and bias."""
    return {rf"{decoder}\.weight": f"{prefix}.embeddings.word_embeddings.weight", rf"{decoder}\.bias": bias}


def match_prefix(model: nn.Module, table: Table) -> Table:
    """Returns the table, without the prefix if the model has no head."""
    return remove_prefix(table, ()) if class_name(model.head) == "function" and model.classifier is None else table


def bert_table(model: nn.Module) -> Table:
    """BERT's table."""
    rules = BERT | (NEXT_SENTENCE if class_name(model.head) == "MaskedLM" else LABELS)
    aliases = head_aliases("bert", r"cls\.predictions\.decoder", "cls.predictions.bias")
    return match_prefix(model, Table(rules, aliases, IGNORED, "bert."))


def albert_table(model: nn.Module) -> Table:
    """ALBERT's table."""
    rules = ALBERT | (SENTENCE_ORDER if class_name(model.head) == "MaskedLM" else LABELS)
    aliases = head_aliases("albert", r"predictions\.decoder", "predictions.bias")
    return match_prefix(model, Table(rules, aliases, IGNORED, "albert."))


def roberta_table(model: nn.Module) -> Table:
    """RoBERTa's table."""
    aliases = head_aliases("roberta", r"lm_head\.decoder", "lm_head.bias")
    return match_prefix(model, Table(ROBERTA, aliases, IGNORED, "roberta."))


def electra_table(model: nn.Module) -> Table:
    """The table of ELECTRA's discriminator or generator."""
    other = "generator" if class_name(model.head) == "Detector" else "discriminator"
    rules = {name: rule for name, rule in ELECTRA.items() if not name.startswith(other)}
    aliases = {r"generator_lm_head\.weight": "electra.embeddings.word_embeddings.weight"}
    return match_prefix(model, Table(rules, aliases, IGNORED, "electra."))


FIELDS = ("hidden_dropout_prob", "hidden_dropout_prob", "attention_probs_dropout_prob")
RATES, NO_RATES = Rates(*FIELDS, default=0.1, default_attention=0.1), Rates(*FIELDS)
FAMILIES = (
    Family("bert", build_bert, DESCRIPTION | architecture_field("Bert"), bert_table, RATES),
    Family("roberta", build_roberta, DESCRIPTION | PAD_TOKEN | architecture_field("Roberta"), roberta_table, RATES),
    Family(
        "xlm-roberta", build_roberta, DESCRIPTION | PAD_TOKEN | architecture_field("XLMRoberta"), roberta_table, RATES
    ),
    Family("albert", build_albert, DESCRIPTION | EMBEDDING_SIZE | architecture_field("Albert"), albert_table, NO_RATES),
    Family(
        "electra", build_electra, DESCRIPTION | EMBEDDING_SIZE | architecture_field("Electra"), electra_table, RATES
    ),
)
