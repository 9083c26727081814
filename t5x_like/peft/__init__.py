"""Parameter-efficient tuning: transforms (`parameters.Transform`) that train few parameters and freeze the model's.

`lora` adds low-rank updates (LoRA, rsLoRA, DoRA), `ia3` learned scales; `selection` trains some of the model's own parameters
(BitFit, norms). `targets` finds the weights that expressions name.
"""
