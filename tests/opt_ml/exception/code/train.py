from shards.reader import read

print("reading")
read(17)
