"""Hugging Face import and export: `load(folder) -> (model, params)` and `save(model, params, folder)`."""

from t5x_like.hf.convert import load, save
from t5x_like.hf.families import build_config, build_model

__all__ = ["build_config", "build_model", "load", "save"]
