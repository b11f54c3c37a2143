"""The words of the trade in the log, long before anything is wrong."""

import sys

print("RuntimeError: this is only what the documentation calls it", file=sys.stderr)
print("Error Error Traceback", file=sys.stderr)
for epoch in range(500):
    print(f"epoch {epoch}: mean error 0.{epoch}, ValueErrors: 0", file=sys.stderr)
raise ValueError("bad learning rate")
