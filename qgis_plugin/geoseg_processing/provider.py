"""The Processing provider: an algorithm per command, and a setting for where geoseg is."""

import json
from pathlib import Path

from processing.core.ProcessingConfig import ProcessingConfig, Setting
from qgis.core import QgsProcessingProvider
from qgis.PyQt.QtGui import QIcon

from .algorithm import EXECUTABLE, GeosegAlgorithm

FOLDER = Path(__file__).parent


class GeosegProvider(QgsProcessingProvider):
    """Algorithms `geoseg:tile` and so on."""

    def id(self):
        return "geoseg"

    def name(self):
        return "geoseg"

    def icon(self):
        return QIcon(str(FOLDER / "icon.svg"))

    def load(self):
        """Put the setting under Settings > Options > Processing > Providers > geoseg."""
        ProcessingConfig.settingIcons[self.name()] = self.icon()
        ProcessingConfig.addSetting(
            Setting(
                self.name(), EXECUTABLE, "Executable of geoseg (empty: the one on the PATH)", "", valuetype=Setting.FILE
            )
        )
        ProcessingConfig.readSettings()
        self.refreshAlgorithms()
        return True

    def unload(self):
        ProcessingConfig.removeSetting(EXECUTABLE)

    def loadAlgorithms(self):  # noqa: N802
        commands = json.loads((FOLDER / "commands.json").read_text(encoding="utf-8"))
        for name, command in commands.items():
            self.addAlgorithm(GeosegAlgorithm(name, command))
