import greeting

print("greeting", greeting.version)
