"""tf_toolkit's PipeModeDataset under the name that scripts know. The package of that name comes first, where it is."""

from tf_toolkit.pipe_mode import PipeModeDataset, PipeModeDatasetException

__all__ = ["PipeModeDataset", "PipeModeDatasetException"]
