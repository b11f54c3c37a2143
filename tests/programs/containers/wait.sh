echo training
exec sleep 300
