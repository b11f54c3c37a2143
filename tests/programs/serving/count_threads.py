"""Loads a model as the server does, in a control group, and counts threads: count_threads.py PROCS MODEL

Printed are the process's own, by their name, and TensorFlow's for branches of a graph.
"""

import os
import sys
from pathlib import Path

from tf_toolkit.serving import serve
from tf_toolkit.serving.settings import read_settings

Path(sys.argv[1]).write_text("0")
model = serve._load(read_settings(os.environ), Path(sys.argv[2]))
threads = Path("/proc/self/task")
names = [(thread / "comm").read_text().strip() for thread in threads.iterdir()]
own = (threads / str(os.getpid()) / "comm").read_text().strip()
print(names.count(own), names.count("tf_Compute"))
