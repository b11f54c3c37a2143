"""Tells of the requests that it gets, as the content type says."""

import json
import os
import re
import signal
import subprocess
import threading
import time
from pathlib import Path

SAGEMAKER = ("BATCH", "BATCH_STRATEGY", "MAX_PAYLOAD_IN_MB", "MAX_CONCURRENT_TRANSFORMS")
together = threading.Barrier(4, timeout=60)
requests = 0


def handler(data, context):
    global requests
    requests += 1
    body = data.read()
    kind = context.request_content_type
    if kind == "test/body":
        return body.hex(), "text/plain"
    if kind == "test/variables":
        variables = {name: os.environ.get(f"SAGEMAKER_{name}") for name in SAGEMAKER}
        return json.dumps([variables, context.accept_header]), "text/plain"
    if kind == "test/together":
        # Four at a time; and the first of four has its answer last.
        place = int(body) % 4
        together.wait()
        time.sleep(0.05 * (3 - place))
        return body.strip(), "text/plain"
    if kind == "test/peak":
        # Of whoever sends this, in KiB.
        status = Path(f"/proc/{os.getppid()}/status").read_text()
        return re.search(r"VmHWM:\s+(\d+)", status)[1], "text/plain"
    if kind == "test/second-hangs" and requests > 1:
        subprocess.Popen(["sleep", "600"])
        print("hanging", flush=True)
        time.sleep(600)
    if kind == "test/second-kills" and requests > 1:
        print("tf-toolkit: error: nothing of importance", flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    return body, "text/plain"
