"""Runs the fuzzer: `python -m fuzz`, or for one target `python -m fuzz frames --seconds 300`. Needs atheris.

What a target raises ends its run; the input is kept in `fuzz/build/TARGET/`, and the exit code is not 0. `--keep` adds
what the run found, as little of it as covers as much, to the corpus that `make test` replays.
"""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

NAMES = (
    "framing",
    "messages",
    "writing",
    "session",
    "link",
    "nats",
    "admission",
    "frames",
    "assembly",
    "deflate",
    "headers",
)
HERE = Path(__file__).parent
MAX_SIZE = 4000
MAX_FILES = 50


def command(name: str, *arguments: str) -> list[str]:
    """A run of its own for each target: libFuzzer ends its process."""
    return [sys.executable, "-m", "fuzz", "--inside", name, *arguments]


def fuzz(name: str, seconds: int) -> bool:
    """Run one target for so long; tell whether all went well."""
    found = HERE / "build" / name
    found.mkdir(parents=True, exist_ok=True)
    print(f"--- {name}: {seconds} s", flush=True)
    flags = [f"-max_total_time={seconds}", f"-max_len={MAX_SIZE}", f"-artifact_prefix={found}/crash-", "-timeout=10"]
    quiet = ["-verbosity=0", "-print_final_stats=1", f"-dict={HERE / 'words.dict'}"]
    corpus = [str(found / "corpus"), str(HERE / "corpus" / name)]
    (found / "corpus").mkdir(exist_ok=True)
    return subprocess.run(command(name, *flags, *quiet, *corpus), check=False).returncode == 0


def keep(name: str) -> None:
    """Add to the corpus what covers something new, the smallest first."""
    corpus, found = HERE / "corpus" / name, HERE / "build" / name / "corpus"
    chosen = HERE / "build" / name / "chosen"
    shutil.rmtree(chosen, ignore_errors=True)
    chosen.mkdir(parents=True)
    merge = ["-set_cover_merge=1", f"-max_len={MAX_SIZE}", "-verbosity=0", str(chosen), str(corpus), str(found)]
    subprocess.run(command(name, *merge), check=True)
    known = {path.read_bytes() for path in corpus.iterdir()}
    for path in sorted(chosen.iterdir(), key=lambda path: path.stat().st_size):
        if len(known) < MAX_FILES and path.read_bytes() not in known:
            known.add(path.read_bytes())
            shutil.copy(path, corpus / path.name[:12])


def inside(name: str, arguments: list[str]) -> None:
    """Be the process that is fuzzed."""
    import atheris  # noqa: PLC0415 - the corpus is replayed without it

    with atheris.instrument_imports(include=["pystrands"], enable_loader_override=False):
        from fuzz.targets import TARGETS  # noqa: PLC0415 - it is instrumented as it is imported
    again = " ".join(command(name))  # when libFuzzer merges, it begins itself again, in a shell
    atheris.Setup([again, *arguments], TARGETS[name])
    atheris.Fuzz()


def main() -> int:
    if sys.argv[1:2] == ["--inside"]:
        inside(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("targets", nargs="*", choices=[*NAMES, []], help="all of them, if none is named")
    parser.add_argument("--seconds", type=int, default=30, help="for each target")
    parser.add_argument("--keep", action="store_true", help="add what was found to the corpus")
    options = parser.parse_args()
    failed = []
    for name in options.targets or NAMES:
        if not fuzz(name, options.seconds):
            failed.append(name)
        elif options.keep:
            keep(name)
    if failed:
        print(f"Something to be mended: {', '.join(failed)}. The inputs are in fuzz/build/; put them into the corpus.")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
