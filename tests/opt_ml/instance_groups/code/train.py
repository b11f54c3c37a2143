"""Shows what it is told of the instance groups."""

import os

for name in (
    "SM_CURRENT_INSTANCE_GROUP",
    "SM_CURRENT_INSTANCE_GROUP_HOSTS",
    "SM_CURRENT_INSTANCE_TYPE",
    "SM_DISTRIBUTION_INSTANCE_GROUPS",
    "SM_HOSTS",
    "SM_INSTANCE_GROUPS",
    "SM_IS_HETERO",
):
    print(name, os.environ[name])
