echo "trained on $SM_CURRENT_HOST"
