import sys

sys.exit("the training channel is empty")
