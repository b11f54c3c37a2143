import os
import sys
from pathlib import Path

Path(os.environ["SM_OUTPUT_FAILURE"]).write_text("the schema changed on Monday\n")
sys.exit(4)
