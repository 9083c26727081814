"""Reads a folder of PEFT onto a base model: the transform that its settings describe, and the values of what it trains."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax import linen as nn

from t5x_like import checkpoints, parameters
from t5x_like.hf import tensors
from t5x_like.hf.table import Entry
from t5x_like.parameters import ADDED, Transform
from t5x_like.peft import ia3, lora, prefix, prompt, selection, targets
from t5x_like.tuning import matrices, peft_config, virtual
from t5x_like.tuning.matrices import Part, as_vector
from t5x_like.tuning.names import ROOT, Names, exactly, slashed
from t5x_like.types import Params

LORA_PARTS = {
    "lora_A.weight": "A",
    "lora_B.weight": "B",
    "lora_embedding_A": "A",
    "lora_embedding_B": "B",
    "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}
NORM_SUFFIX = ".ln_tuning_layers"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What a folder of PEFT holds: the transform, and what it trains, as a nested dict of arrays.

    `model` is the base, with place for virtual tokens or a prompt if the adapter has these.
    """

    transform: Transform
    trained: Params
    model: nn.Module


class Reader:
    """One folder, matched with a base model.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: settings or tensors that are not supported or do not fit the base, or an adapter for another base.
    """

    def __init__(self, folder: Path, names: Names, params: Params) -> None:
        self.folder, self.names = folder, names
        self.config = peft_config.read(folder)
        self.where = folder / peft_config.CONFIG_FILE
        self.base = checkpoints.leaves_by_name(params)
        self.stored = {name: stored.read() for name, stored in tensors.read_header(folder / peft_config.TENSORS_FILE)}
        check_base(folder, names, params)

    def read(self) -> Adapter:
        """The adapter."""
        read = {"LORA": self.read_lora, "IA3": self.read_ia3, "LN_TUNING": self.read_norms}
        if (kind := self.config["peft_type"]) in read:
            return read[kind]()
        stored = self.stored.get("prompt_embeddings")
        count = int(peft_config.number(self.config, "num_virtual_tokens", self.where))
        if stored is None or stored.ndim != 2 or len(stored) != count:
            shape = None if stored is None else stored.shape
            raise self.error(f"prompt_embeddings {shape} do not fit num_virtual_tokens={count}")
        return self.read_prompt(stored) if kind == "PROMPT_TUNING" else self.read_prefix(stored)

    def read_prompt(self, vectors_PD: np.ndarray) -> Adapter:
        """Prompt tuning."""
        model = virtual.with_prompt(self.names.model, len(vectors_PD))
        width = model.embed.width
        if vectors_PD.shape[1] != width:
            raise self.error(f"prompt_embeddings have the width {vectors_PD.shape[1]}, the base {width}")
        name = "prompt" if model.virtual_tokens == 0 else f"decoder{ADDED}{prompt.NAME}"
        return Adapter(prompt.Prompt(model), {name: {"vectors": vectors_PD}}, model)

    def read_prefix(self, stored: np.ndarray) -> Adapter:
        """Prefix tuning."""
        model = virtual.with_prefix(self.names.model, len(stored))
        try:
            trained = virtual.split_prefix(model, stored)
        except ValueError as error:
            raise self.error(str(error)) from error
        return Adapter(prefix.Prefix(), trained, model)

    def read_lora(self) -> Adapter:
        """LoRA, rsLoRA or DoRA."""
        groups = self.group(LORA_PARTS)
        own: Params = {}
        ranks: dict[str, set[int]] = {}
        alphas: dict[str, set[float]] = {}
        filled: dict[str, dict[str, np.ndarray]] = {}
        for module, found in groups.items():
            if not {"A", "B"} <= set(found):
                raise self.error(f"{module} has no {'lora_A' if 'A' not in found else 'lora_B'}")
            default = peft_config.number(self.config, "lora_alpha", self.where)
            alpha = peft_config.of_module(self.config, "alpha_pattern", module, default)
            for path, index, factors in self.lora_factors(module, found):
                ranks.setdefault(path, set()).add(found["A"].shape[0])
                alphas.setdefault(path, set()).add(alpha)
                self.fill(filled, path, index, factors)
        self.check_all_layers(filled)
        for path, factors in filled.items():
            if len(ranks[path]) > 1 or len(alphas[path]) > 1:
                raise self.error(f"layers of {path} have different ranks or alphas; import with --unrolled")
            targets.place(own, f"{path}{ADDED}{lora.NAME}", factors)
        also, values = self.read_whole()
        transform = lora.LoRA(
            tuple(exactly(path) for path in filled),
            rank=int(peft_config.number(self.config, "r", self.where)),
            alpha=float(peft_config.number(self.config, "lora_alpha", self.where)),
            rank_stabilized=bool(self.config.get("use_rslora")),
            magnitudes=bool(self.config.get("use_dora")),
            dropout=float(self.config.get("lora_dropout") or 0.0),
            ranks=exceptions(ranks, self.config["r"]),
            alphas=exceptions(alphas, self.config["lora_alpha"]),
            trained=also,
        )
        return Adapter(transform, parameters.union(own, values), self.names.model)

    def lora_factors(self, module: str, found: Mapping[str, np.ndarray]) -> Iterator[tuple[str, tuple, dict]]:
        """(path, index, factors) of every weight of a module."""
        entry = self.entry(f"{module}.weight")
        target = self.names.targets[slashed(entry.targets[0].path)]
        a, b, magnitude = found["A"], found["B"], found.get("magnitude")
        if not target.is_table:
            shape = entry.shape()
            for part, piece in zip(self.parts(entry), entry.targets, strict=True):
                if sorted((a.shape[1], b.shape[0])) != sorted(shape) or len(a) != b.shape[1]:
                    raise self.error(f"{module}: A {a.shape} and B {b.shape} do not fit the weight {shape} of the base")
                yield slashed(piece.path), piece.index, part.split(a, b, magnitude)
            return
        if self.names.model.head is None or "table" not in self.names.boxed.get("head", {"table": None}):
            raise self.error(
                f"{module}: the head shares the embedding's table, which the adapter changes for one of them"
            )
        is_head = target.path.startswith("head")
        factors = {"a": b, "b": a} if is_head else {"a": a.T, "b": b.T}
        if magnitude is not None:
            factors["magnitude"] = magnitude
        yield target.path, (), factors

    def read_ia3(self) -> Adapter:
        """(IA)3."""
        feedforward = self.config.get("feedforward_modules") or []
        feedforward = [feedforward] if isinstance(feedforward, str) else feedforward
        filled: dict[str, dict[str, np.ndarray]] = {}
        for module, found in self.group({"ia3_l": "factors"}).items():
            entry = self.entry(f"{module}.weight")
            vector = found["factors"]
            kind = (
                "inputs" if vector.shape[0] == 1 and any(module.endswith(name) for name in feedforward) else "outputs"
            )
            for part, piece in zip(self.parts(entry), entry.targets, strict=True):
                indices = part.ins if kind == "inputs" else part.outs
                factors = as_vector(vector)[indices]
                shape = (
                    (*part.ins.shape, *[1] * part.outs.ndim)
                    if kind == "inputs"
                    else (*[1] * part.ins.ndim, *part.outs.shape)
                )
                self.fill(filled, slashed(piece.path), piece.index, {kind: factors.reshape(shape)})
        self.check_all_layers(filled)
        own: Params = {}
        for path, factors in filled.items():
            if len(factors) > 1:
                raise self.error(f"{path} has factors of its inputs and of its outputs")
            targets.place(own, f"{path}{ADDED}{ia3.NAME}", {kind: {"scale": x} for kind, x in factors.items()})
        also, _ = self.read_whole()
        if also:
            raise self.error(f"modules_to_save with IA3 is not supported: {', '.join(also[:4])}")
        by_kind = {kind: tuple(exactly(p) for p, x in filled.items() if kind in x) for kind in ("outputs", "inputs")}
        return Adapter(ia3.IA3(by_kind["outputs"], by_kind["inputs"]), own, self.names.model)

    def read_norms(self) -> Adapter:
        """LayerNorm tuning."""
        also, values = self.read_whole()
        return Adapter(selection.Train(also), values, self.names.model)

    def group(self, suffixes: Mapping[str, str]) -> dict[str, dict[str, np.ndarray]]:
        """The tensors that end so, by module and part; they are taken from `stored`."""
        result: dict[str, dict[str, np.ndarray]] = {}
        for name in list(self.stored):
            suffix = next((x for x in suffixes if name.endswith(f".{x}")), None)
            if suffix is not None:
                module = name.removeprefix(ROOT).removesuffix(f".{suffix}")
                result.setdefault(module, {})[suffixes[suffix]] = self.stored.pop(name)
        if not result:
            raise self.error(f"the tensors have none of {', '.join(suffixes)}")
        return result

    def read_whole(self) -> tuple[tuple[str, ...], Params]:
        """(expressions, values) of the parameters that the folder holds as a whole: biases, norms, modules_to_save.

        Copies of the base's weights, which PEFT adds to those of a resized embedding, must be those of the base.
        """
        values: dict[str, np.ndarray] = {}
        for stored_name, x in self.stored.items():
            plain = stored_name.removeprefix(ROOT).replace(NORM_SUFFIX, "")
            name = self.names.find(plain.replace(".base_layer.", "."))
            is_bias = plain.endswith(".bias") and self.config.get("bias", "none") != "none"
            same = name if ".base_layer." in plain and not is_bias else None
            if name is None and (original := self.names.original(plain)) is not None:
                name, same = original, original
                own = self.stored.get(f"{ROOT}{original}")
                if own is not None and np.array_equal(own, x):
                    continue
            if name is None:
                raise self.error(f"{stored_name} {x.shape} is no tensor of this model or its adapter")
            if x.shape != self.names.entries[name].shape():
                raise self.error(f"{stored_name} has the shape {x.shape}, the base {self.names.entries[name].shape()}")
            if same is not None:
                if not np.array_equal(x, self.names.stored_tensor(name, self.base).astype(x.dtype)):
                    raise self.error(f"{stored_name} differs from {name} of the base: the adapter is for another base")
                continue
            entry = self.names.entries[name]
            pieces = entry.op.split(x, [target.shape for target in entry.targets])
            for target, piece in zip(entry.targets, pieces, strict=True):
                whole = values.setdefault(target.path, np.array(jax.device_get(self.base[target.path])))
                whole[target.index] = piece
        tree: Params = {}
        for path, value in values.items():
            targets.place(tree, slashed(path), value)
        return tuple(exactly(slashed(path)) for path in values), tree

    def entry(self, tensor: str) -> Entry:
        """The entry of a weight of the base."""
        name = self.names.find(tensor)
        if name is None or slashed(self.names.entries[name].targets[0].path) not in self.names.targets:
            raise self.error(
                f"{tensor} is no weight of the base that can be adapted; its head may share the embedding's table"
            )
        return self.names.entries[name]

    def parts(self, entry: Entry) -> tuple[Part, ...]:
        """The parts of a tensor, see `matrices`."""
        inputs = tuple(self.names.targets[slashed(target.path)].inputs for target in entry.targets)
        return matrices.parts(entry.op, entry.shape(), tuple(target.shape for target in entry.targets), inputs)

    def fill(self, filled: dict, path: str, index: tuple, factors: Mapping[str, np.ndarray]) -> None:
        """Puts the factors of one layer or expert into the arrays of a weight."""
        stacked = self.names.targets[path].part("stacked")[0]
        arrays = filled.setdefault(path, {})
        for name, x in factors.items():
            x = x.astype(self.base[path.replace("/", ".")].dtype)
            whole = arrays.setdefault(name, np.full((*stacked, *x.shape), np.nan, x.dtype))
            if whole.shape != (*stacked, *x.shape):
                raise self.error(f"layers of {path} have different ranks; import with --unrolled")
            whole[index] = x

    def check_all_layers(self, filled: Mapping[str, Mapping[str, np.ndarray]]) -> None:
        """Raises ValueError if only some layers of a scanned stack have an adapter, or for values that are not finite."""
        for path, arrays in filled.items():
            if not all(np.isfinite(x.astype(np.float32)).all() for x in arrays.values()):
                raise self.error(f"not all layers of {path} have an adapter of finite numbers; import with --unrolled")

    def error(self, message: str) -> ValueError:
        """The error of this folder."""
        return ValueError(f"--adapter={self.folder}: {message}")


def exceptions(found: Mapping[str, set], default: Any) -> tuple:
    """(expression, value) of the paths whose value is not the default."""
    return tuple((exactly(path), value) for path, values in found.items() for value in values if value != default)


def check_base(folder: Path, names: Names, params: Params) -> None:
    """Raises ValueError if the folder names the hash of another base."""
    with safetensors.safe_open(folder / peft_config.TENSORS_FILE, framework="numpy") as file:
        wanted = (file.metadata() or {}).get(peft_config.HASH)
    if wanted is not None and (actual := names.hash(params)) != wanted:
        raise ValueError(
            f"--adapter={folder} is for another base: its weights have the sha256 {wanted[:16]}, those of this base "
            f"{actual[:16]}; import it with the model that it was trained on"
        )


def read(folder: Path, names: Names, params: Params) -> Adapter:
    """The adapter in a folder of PEFT, for a base model with these parameters; see `Reader`."""
    adapter = Reader(folder, names, params).read()
    return dataclasses.replace(adapter, trained=jax.tree.map(jnp.asarray, adapter.trained))
