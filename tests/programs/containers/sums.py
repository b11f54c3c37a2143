"""What each rank is and sees, written into its own host's output directory; over in under a second."""

import json
import os
import socket
import sys
from pathlib import Path

from mpi4py import MPI

world = MPI.COMM_WORLD
local = world.Split_type(MPI.COMM_TYPE_SHARED)
seen = {
    "rank": world.rank,
    "size": world.size,
    "local rank": local.rank,
    "local size": local.size,
    "sum": world.allreduce(world.rank + 1),
    "hostname": socket.gethostname(),
    "argv": sys.argv[1:],
    "environ": dict(os.environ),
}
(Path(os.environ["SM_OUTPUT_DATA_DIR"]) / f"rank-{world.rank}.json").write_text(json.dumps(seen))
print(f"rank {world.rank} of {world.size} adds up to {seen['sum']}")
