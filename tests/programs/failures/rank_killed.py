"""What mpirun prints when a rank is killed."""

import sys

RULER = "-" * 74
NOTICE = "prterun noticed that process rank 0 with PID 17385 on node algo-1 exited on\nsignal 9 (Killed)."
print("[1,0]<stderr>:step 1", RULER, NOTICE, RULER, sep="\n", file=sys.stderr)
sys.exit(137)
