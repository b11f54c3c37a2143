"""What Python and TensorFlow print after the traceback as the process goes down."""

import atexit
import logging
import sys
from multiprocessing import shared_memory

TENSORFLOW = """\
2024-05-01 10:00:00.123456: W tensorflow/core/framework/local_rendezvous.cc:404] Local rendezvous is aborting
\t [[{{node IteratorGetNext}}]]
2024-05-01 10:00:00.123456: E external/local_xla/xla/stream_executor/cuda/cuda_driver.cc:274] failed call to cuInit
I0000 00:00:1714550400.123456   12345 port.cc:153] oneDNN custom operations are on.
W0501 10:00:00.123456 139872 checkpoint.py:205] Value in checkpoint could not be found
WARNING:tensorflow:Detecting that an object is being deleted
2024-05-01 10:00:00,123 - root - INFO - shutting down
"""
leaked = shared_memory.SharedMemory(create=True, size=16)
logging.basicConfig(level=logging.INFO)
atexit.register(logging.info, "closing the cache")
atexit.register(sys.stderr.write, TENSORFLOW)
raise ValueError("bad learning rate")
