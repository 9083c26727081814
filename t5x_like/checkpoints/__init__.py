"""Checkpoints: saved in a thread while training continues, complete or absent, restored onto any mesh.

`folder` is the format on disk (Orbax arrays and a manifest), `checksums` and `verify` find damage, `checkpointer` saves and
restores train states, `frozen` names and restores the parameters that are not trained, `restore` reads the parameters of a run
for another run or for inference.
"""

from t5x_like.checkpoints.checkpointer import Checkpointer
from t5x_like.checkpoints.folder import DamagedCheckpointError, complete_steps, leaves_by_name
from t5x_like.checkpoints.restore import InitializeFrom, restore_base, restore_params, restore_parts
from t5x_like.checkpoints.verify import latest_step

__all__ = [
    "Checkpointer",
    "DamagedCheckpointError",
    "InitializeFrom",
    "complete_steps",
    "latest_step",
    "leaves_by_name",
    "restore_base",
    "restore_params",
    "restore_parts",
]
