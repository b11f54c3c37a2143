for argument in "$@"; do
  echo "in $(basename "$PWD"): $argument"
done
