"""The plugin: it brings a Processing provider, and nothing else."""

from qgis.core import QgsApplication

from .provider import GeosegProvider


class GeosegPlugin:
    """Made by QGIS, which calls its methods."""

    def __init__(self):
        self._provider = None

    def initProcessing(self):  # noqa: N802
        """Add the provider; called alone by qgis_process."""
        self._provider = GeosegProvider()
        QgsApplication.processingRegistry().addProvider(self._provider)

    def initGui(self):  # noqa: N802
        """Add all there is, where there are windows."""
        self.initProcessing()

    def unload(self):
        """Take it away again."""
        QgsApplication.processingRegistry().removeProvider(self._provider)
