"""``python -m rongcloud_groups.emulator``: for other programs, which read its first line of output."""

import argparse
import asyncio
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from rongcloud_groups.emulator.options import EmulatorOptions

try:
    from rongcloud_groups.emulator.program import build, serve
except ModuleNotFoundError as missing:
    sys.exit(str(missing))


def main(arguments: Sequence[str] | None = None) -> None:
    """Run an emulator; print one line of JSON with its address to stdout, and the report to stderr."""
    parser = argparse.ArgumentParser(prog="python -m rongcloud_groups.emulator", description=__doc__)
    types = get_type_hints(EmulatorOptions)
    for option in fields(EmulatorOptions):
        name, text = option.name.replace("_", "-"), option.metadata["help"].replace("%", "%%")
        parser.add_argument(f"--{name}", default=option.default, help=text, **_argument(types[option.name]))
    options = EmulatorOptions(**vars(parser.parse_args(arguments)))
    try:
        emulator = build(options)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    asyncio.run(serve(emulator, ca_file=options.ca_file))


def _argument(annotation: Any) -> dict[str, Any]:
    """The arguments of `add_argument` for an option of this type."""
    if annotation is bool:
        return {"action": argparse.BooleanOptionalAction}
    if get_origin(annotation) is Literal:
        return {"choices": get_args(annotation)}
    kinds = get_args(annotation) or (annotation,)
    return {"type": kinds[0]} if isinstance(kinds[0], type) else {"action": "append", "metavar": "NAME[=VALUE]"}


if __name__ == "__main__":
    main()
