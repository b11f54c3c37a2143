"""Nothing but a script: no configuration at all."""

print("trained")
