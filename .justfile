# the project's commands, in the environment .venv

# install the package and all that its tests need
setup:
    python3 -m venv .venv && .venv/bin/pip install -q -e '.[dev]'

# run tests, all of them by default
test *arguments:
    .venv/bin/pytest {{arguments}}

# style, types, imports
lint:
    .venv/bin/ruff check && .venv/bin/ruff format --check && .venv/bin/mypy && .venv/bin/lint-imports

# the pages, in site/
docs:
    .venv/bin/sphinx-build -W --keep-going docs site

# run benchmarks, all of them by default
bench *questions:
    .venv/bin/python -m benchmarks {{questions}}

# what CI runs
ci:
    .ci/run
