"""Adapters in the format of the PEFT library: adapter_config.json and adapter_model.safetensors, read and written.

`peft_config` translates the settings, `matrices` the factors of fused and permuted weights, `importing` and `exporting` whole
folders, by the mapping tables of `t5x_like.hf`.
"""
