"""`python -m data demo FOLDER` makes the demo corpus."""

import argparse
from pathlib import Path

from data.demo import make_corpus
from data.errors import plain_errors


def main() -> None:
    """Run one of the commands."""
    parser = argparse.ArgumentParser(prog="python -m data", description="Corpora on disk.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="make a corpus of spoken numbers, English and Mandarin")
    demo.add_argument("folder", type=Path, help="the folder to write; it must not exist")
    demo.add_argument(
        "--clips", type=int, default=5500, help="of training, both languages together"
    )
    demo.add_argument("--seed", type=int, default=0, help="of sentences and voices")
    arguments = parser.parse_args()
    with plain_errors():
        for folder in make_corpus(arguments.folder, clips=arguments.clips, seed=arguments.seed):
            print(folder)


if __name__ == "__main__":
    main()
