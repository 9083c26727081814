"""The README of an exported run."""

from collections.abc import Mapping, Sequence
from typing import Any

# By the kind of vocabulary.
LIBRARIES = {
    "bytes": [],
    "tokenizer": ["tokenizers"],
    "sentencepiece": ["sentencepiece"],
    "sentencepiece_model": ["sentencepiece"],
}

STABLEHLO = """\
```
pip install {packages}
```

```python
import numpy as np
import run    # run.py of this folder; it checks versions and checksums

programs = run.load()
{example}
```

Without run.py:

```python
import jax, numpy as np
from safetensors.numpy import load_file

params = load_file("parameters.safetensors")
program = jax.export.deserialize(bytearray(open("{name}.jax_export", "rb").read()))
out = jax.jit(program.call)(params, {arguments})
```

`program.mlir_module()` is the StableHLO. The arguments of its function `main` are the index of the platform in the list above if
there are several, the parameters in the order of their names (that of `manifest.json`), and the inputs in the order below.
"""

SAVED_MODEL = """\
```python
import tensorflow as tf

model = tf.saved_model.load(".")
out = model.signatures["{name}"]({arguments})
```
"""

TEXT = """
tokens, lengths = run.pad([run.encode(text) for text in ("a prompt", "another one")])
out = programs["predict"](tokens, lengths, 0)
print([run.decode(row) for row in np.asarray(out["tokens"])])    # or: python run.py "a prompt"
"""


def text(manifest: Mapping[str, Any]) -> str:
    """The README that belongs to a manifest."""
    model, functions = manifest["model"], manifest["functions"]
    name = next(iter(functions))
    parts = [
        "# An exported run\n",
        f"{model['class']} of {model['parameters']:,} parameters, step {manifest['step']}, exported by t5x_like "
        f"{manifest['t5x_like_version']} with jax {manifest['jax']['minimum_version']} for {', '.join(manifest['platforms'])}.\n",
        usage(manifest, name),
        "## Functions\n",
        "Inputs are int32. Rows are aligned on the left: row b has `lengths[b]` tokens, at least one; what follows is ignored.\n",
        *(describe(each, functions[each]) for each in functions),
        "The names of the parameters, their checksums, and the vocabulary's special ids are in `manifest.json`.\n",
    ]
    return "\n".join(parts)


def usage(manifest: Mapping[str, Any], name: str) -> str:
    """The code that calls the function `name`."""
    inputs = manifest["functions"][name]["inputs"]
    if manifest["format"] == "saved_model":
        arguments = ", ".join(f"{x['name']}=tf.constant({x['name']})" for x in inputs)
        return SAVED_MODEL.format(name=name, arguments=arguments)
    kind = manifest["vocabulary"]["kind"] if manifest["vocabulary"] else "bytes"
    packages = [f"'jax>={manifest['jax']['minimum_version']}'", "flatbuffers", "numpy", "safetensors", *LIBRARIES[kind]]
    arguments = ", ".join(f"np.asarray({x['name']}, np.int32)" for x in inputs)
    call = f'out = programs["{name}"]({", ".join(x["name"] for x in inputs)})'
    return STABLEHLO.format(
        packages=" ".join(packages), example=TEXT.strip() if name == "predict" else call, name=name, arguments=arguments
    )


def describe(name: str, function: Mapping[str, Any]) -> str:
    """A function's inputs and outputs."""
    ranges = ", ".join(f"{dim} {low} to {high or 'any'}" for dim, (low, high) in function["ranges"].items())
    limits = f" Sizes: {ranges}." if ranges else ""
    return f"`{name}({arrays(function['inputs'])})` -> `{{{arrays(function['outputs'])}}}`\n\n{function['description']}{limits}\n"


def arrays(entries: Sequence[Mapping[str, Any]]) -> str:
    """Names, dtypes and shapes."""
    return ", ".join(f"{x['name']}: {x['dtype']}[{', '.join(map(str, x['shape']))}]" for x in entries)
