"""How Sphinx builds the pages: ``sphinx-build -W -b html docs site``. Undocumented public names are errors."""

import re
import tomllib
from importlib import import_module
from inspect import getdoc, isclass, isroutine
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx
from sphinx.util.logging import getLogger

from rongcloud_groups import __version__

with (Path(__file__).parents[1] / "pyproject.toml").open("rb") as pyproject:
    _project = tomllib.load(pyproject)["project"]

project = _project["name"]
author = "the rongcloud-groups authors"
copyright = f"2026, {author}"  # noqa: A001  Sphinx's name
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["README.md"]  # index.rst includes it
myst_heading_anchors = 3
default_role = "py:obj"  # a name in single backticks is a link where it is described
add_module_names = False
napoleon_custom_sections = [("Attributes", "params_style")]  # as a list, like the arguments
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
html_theme = "furo"
html_title = f"{project} {__version__}"
html_theme_options = {
    "source_repository": _project["urls"]["Homepage"],
    "source_branch": "main",
    "source_directory": "docs/",
}
html_static_path = ["_static"]
html_css_files = ["pages.css"]
pygments_dark_style = "github-dark"
copybutton_prompt_text = "$ "
html_show_sphinx = False
html_copy_source = False

PUBLIC = [
    "rongcloud_groups",
    "rongcloud_groups.blocking",
    "rongcloud_groups.bulk",
    "rongcloud_groups.dlt",
    "rongcloud_groups.emulator",
    "rongcloud_groups.errors",
    "rongcloud_groups.events",
    "rongcloud_groups.limiters",
    "rongcloud_groups.otel",
    "rongcloud_groups.pytest_plugin",
]
"""The modules that users import."""


def _check_names(app: Sphinx, error: Exception | None) -> None:
    """Warn of each public name that has no docstring or stands on no page."""
    if error is not None or app.builder.name != "html":
        return
    warn = getLogger(__name__).warning
    described = {name.rpartition(".")[2] for name in app.env.domains.python_domain.objects}
    for module_name in PUBLIC:
        module = import_module(module_name)
        for name in getattr(module, "__all__", ()):
            thing: Any = getattr(module, name)
            if name not in described:
                warn("%s.%s is on no page", module_name, name)
            if (isclass(thing) or isroutine(thing)) and not getdoc(thing):
                warn("%s.%s has no docstring", module_name, name)
            for method, value in vars(thing).items() if isclass(thing) else ():
                if isroutine(value) and not method.startswith("_") and not getdoc(getattr(thing, method)):
                    warn("%s.%s.%s has no docstring", module_name, name, method)


MADE_BY_THE_CLIENT = {"BlockingStream", "Listing", "ProfilePages", "Stream"}
"""Classes whose arguments are no business of a user."""


def _shorten(*arguments: Any) -> tuple[str | None, str | None]:
    """A signature in which no default is a whole object, which Sphinx could not parse; none where it says nothing."""
    _, _, name, _, _, signature, returned = arguments
    if signature == "(*args, **kwargs)" or name.rpartition(".")[2] in MADE_BY_THE_CLIENT:
        return "", returned
    return signature and re.sub(r"= ?(?:<[^<>]*>|\w+\([^()]*<[^()]*\))", "= ...", signature), returned


def _skip(*arguments: Any) -> bool | None:
    """Whether a member has no text but Python's own."""
    _, _, _, member, _, _ = arguments
    return True if str(getdoc(member)).startswith("Alias for field number") else None


def _without_type(*arguments: Any) -> None:
    """Napoleon takes the words before a colon in an attribute's first line for its type; they go back there."""
    lines = arguments[-1]
    for line in [line for line in lines if line.startswith(":type: ")]:
        lines.remove(line)
        lines[0] = f"{line.removeprefix(':type: ')}: {lines[0]}"


def setup(app: Sphinx) -> None:
    """Have public names checked once all pages are written."""
    app.connect("autodoc-process-docstring", _without_type, priority=600)
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-skip-member", _skip)
    app.connect("build-finished", _check_names)
