"""``python -m rongcloud_groups``: the command ``rongcloud-groups``."""

from rongcloud_groups.cli import main

main()
