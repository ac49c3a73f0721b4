"""The commands of geoseg as algorithms of QGIS Processing, which call an installed geoseg in a process of its own."""


def classFactory(iface):  # noqa: N802 - QGIS asks for it by this name
    """Make the plugin."""
    from .plugin import GeosegPlugin

    return GeosegPlugin()
