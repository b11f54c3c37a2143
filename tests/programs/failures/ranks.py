"""What mpirun --tag-output prints when rank 1 fails and rank 0 follows it: their lines alternate."""

import subprocess
import sys
from itertools import zip_longest

RULER = "-" * 74
ABORT = (RULER, "MPI_ABORT was invoked on rank 1 in communicator MPI_COMM_WORLD", "with errorcode 1.", RULER)
END = f"""\
{RULER}
mpirun detected that one or more processes exited with non-zero status, thus causing
the job to be terminated. The first process to do so was:

  Process name: [[62447,1],1]
  Exit code:    1
{RULER}
[algo-1:17313] 1 more process has sent help message help-mpi-api.txt / mpi-abort"""
blank = sys.argv[1]
first, second = (
    subprocess.run([sys.executable, script], stderr=subprocess.PIPE, text=True).stderr.splitlines()
    for script in ("deep.py", "chained.py")
)
for one, zero in zip_longest(first, ["step 1", *second]):
    if one is not None:
        print(f"[1,1]<stderr>:{blank}{one}", file=sys.stderr)
    if zero is not None:
        print(f"[1,0]<stderr>:{blank}{zero}", file=sys.stderr)
for line in ABORT:
    print(f"[1,1]<stderr>:{blank}{line}", file=sys.stderr)
print(END, file=sys.stderr)
sys.exit(1)
