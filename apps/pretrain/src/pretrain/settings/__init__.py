"""What a run can be told: one frozen model per method, filled from a recipe and the command line."""

from pretrain.settings.deepcluster import DeepClusterSettings
from pretrain.settings.deepcluster_v2 import DeepClusterV2Settings
from pretrain.settings.odc import OdcSettings
from pretrain.settings.sections import Data, Machine, Network, RunSettings, Training
from pretrain.settings.swav import SwavSettings
from pretrain.settings.values import Crops, parse_crops, parse_interval

_ALL: tuple[type[RunSettings], ...] = (DeepClusterSettings, OdcSettings, DeepClusterV2Settings, SwavSettings)

# The one table of methods. A new method: its settings here, its file in methods/, its recipes in recipes/.
METHODS: dict[str, type[RunSettings]] = {settings.model_fields["method"].default: settings for settings in _ALL}

__all__ = [
    "METHODS",
    "Crops",
    "Data",
    "DeepClusterSettings",
    "DeepClusterV2Settings",
    "Machine",
    "Network",
    "OdcSettings",
    "RunSettings",
    "SwavSettings",
    "Training",
    "parse_crops",
    "parse_interval",
]
