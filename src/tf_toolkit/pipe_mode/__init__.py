"""``PipeModeDataset``: a channel in Pipe mode as a ``tf.data.Dataset``, one record an element.

The platform's side: a FIFO for each pass over the data, ``/opt/ml/input/data/<channel>_<epoch>``. "Accessing training
data", https://docs.aws.amazon.com/sagemaker/latest/dg/model-access-training-data.html.
"""

from __future__ import annotations

from tf_toolkit.pipe_mode.channel import PipeModeDatasetException
from tf_toolkit.pipe_mode.dataset import PipeModeDataset

__all__ = ["PipeModeDataset", "PipeModeDatasetException"]
