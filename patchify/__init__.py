"""Give applications the power to update themselves.

Two halves share one wire format and know nothing else of each other: ``patchify.server`` (a Flask blueprint that
serves signed JSON and release files) and ``patchify.client`` (an `Updater` embedded in an application). Import the
half you need; this package imports neither.
"""

__version__ = "1.0.0"
