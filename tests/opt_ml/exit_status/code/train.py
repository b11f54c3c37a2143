import sys

print("no GPU here", file=sys.stderr)
sys.exit(3)
