echo "disk check failed" >&2
exit 7
