"""Ranks that add up for minutes; the one that is asked to goes wrong in the way that is asked for, and says when."""

import argparse
import os
import signal
import sys
import time

from mpi4py import MPI

parser = argparse.ArgumentParser()
parser.add_argument("--fault")
parser.add_argument("--rank", type=int)
arguments = parser.parse_args()
world = MPI.COMM_WORLD
for step in range(3000):
    world.allreduce(step)
    if step == 5 and world.rank == 0:
        print("training", flush=True)
    if step == 10 and world.rank == arguments.rank:
        print(f"fault at {time.time()}", flush=True)
        if arguments.fault == "raise":
            raise ValueError("bad")
        if arguments.fault == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        sys.exit(3)
    time.sleep(0.1)
