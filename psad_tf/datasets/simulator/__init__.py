"""A click world with a known optimum: its law, its logs, and how good a list can be."""

from __future__ import annotations

from psad_tf.datasets.simulator.config import PRESETS, SimulatorConfig
from psad_tf.datasets.simulator.oracles import headroom
from psad_tf.datasets.simulator.raw_folder import declaration, simulate
from psad_tf.datasets.simulator.world import World

__all__ = ["PRESETS", "SimulatorConfig", "World", "declaration", "headroom", "simulate"]
