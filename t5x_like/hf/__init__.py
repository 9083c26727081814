"""Hugging Face in and out: `load(folder) -> (model, params)`, `save(model, params, folder)`; a mapping table a family."""

from t5x_like.hf.convert import load, save
from t5x_like.hf.families import config_of, model_of

__all__ = ["config_of", "load", "model_of", "save"]
