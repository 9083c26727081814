"""The masks of every layer: causal, or with a window."""

from collections.abc import Callable

from t5x_like.hf.fields import Fields
from t5x_like.models import masks


def read_masks(f: Fields, default: Callable[[int], bool], size: int | None) -> Callable[[int], Callable]:
    """Returns the mask of every layer: windows of `size` by `layer_types`, or else in the layers for which `default` is true."""
    types = f.optional("layer_types", [""])
    if types is not None and (unknown := sorted(set(types) - {"full_attention", "sliding_attention"})):
        raise ValueError(f"{f.where}: layer_types has {unknown}; supported are full_attention and sliding_attention")
    count = f("num_hidden_layers")
    if types is not None and len(types) != count:
        raise ValueError(f"{f.where}: layer_types has {len(types)} layers, but num_hidden_layers={count}")
    if size is None and "sliding_attention" in (types or ()):
        raise ValueError(f"{f.where}: layer_types has sliding_attention, but no sliding_window is in use")

    def mask(i: int) -> Callable:
        local = default(i) if types is None else types[i] == "sliding_attention"
        return make_window(f, size) if local and size is not None else masks.causal

    return mask


def make_window(f: Fields, size: int) -> masks.Window:
    """Returns a window; raises ValueError if `size` is not positive."""
    if size < 1:
        raise ValueError(f"{f.where}: sliding_window={size} is not positive; use null for no window")
    return masks.Window(size)


def uniform_mask(f: Fields) -> Callable[[int], Callable]:
    """Returns the mask of every layer: the same window, or none, in all layers."""
    size = f.optional("sliding_window", 1, low=0)
    return lambda i: masks.causal if size is None else make_window(f, size)


def qwen_masks(f: Fields) -> Callable[[int], Callable]:
    """Returns the mask of every layer of a Qwen: windows only with use_sliding_window, from layer max_window_layers on."""
    size = f.optional("sliding_window", 1, low=0)
    size = size if f("use_sliding_window", False) else None
    first = f("max_window_layers", 28, low=0)
    return read_masks(f, lambda i: size is not None and i >= first, size)
