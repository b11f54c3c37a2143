set -e
echo "starting"
no-such-program-anywhere --epochs 3
