"""Runs the benchmarks: ``python -m benchmarks [QUESTION …] [--quick]``, each question a program of its own."""

import argparse
import subprocess
import sys

QUESTIONS = {
    "batch_cost": "(a) processor and wall time of a batch of 50 IDs, beside the field",
    "field_budget": "(b) the budget at the server, beside the field",
    "decoding": "(c) reading a response with 50 profiles",
    "added_latency": "(d) what a get adds to a bare request",
    "memory": "(e) memory and time from ten thousand to a million IDs",
    "import_time": "(f) the import",
    "budget": "the budget at the server in many scenarios",
    "links": "what becomes of requests when connections fail",
    "shared_budget": "one budget for several processes",
    "bulk": "memory, processor and wall time of the bulk command",
    "lanes": "pages beside a bulk sync",
    "engines": "threads, a fork and the whole listing on one budget",
    "web": "a web app in several processes",
}


def main() -> int:
    listed = "\n".join(f"  {name:14} {text}" for name, text in QUESTIONS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"Runs the benchmarks, all of them by default:\n{listed}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("questions", nargs="*", metavar="QUESTION", help="which to run")
    parser.add_argument("--quick", action="store_true", help="short runs, whose results go into files of their own")
    options, passed_on = parser.parse_known_args()
    if unknown := set(options.questions) - set(QUESTIONS):
        parser.error(f"no such question: {', '.join(sorted(unknown))}")
    broken = []
    for question in options.questions or QUESTIONS:
        print(f"\n== {QUESTIONS[question]}\n", flush=True)
        command = [
            sys.executable,
            "-m",
            f"benchmarks.questions.{question}",
            *(["--quick"] if options.quick else []),
            *passed_on,
        ]
        if subprocess.run(command, check=False).returncode:  # noqa: S603  our own programs
            broken.append(question)
    print(f"\nfell short: {', '.join(broken)}" if broken else "\nall promises held")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
