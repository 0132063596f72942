"""Answers, for each JSON line {"pattern", "paths"}, what CPython's re.match finds.

The answer is {"matches": [bool or null]} (null: it took too long or failed by itself), or {"error": text} when the
pattern does not compile.
"""
import json
import re
import signal
import sys
import warnings

SECONDS_PER_PATTERN = 10


class Slow(Exception):
    pass


def stop(_signal, _frame):
    raise Slow


def answer(request):
    try:
        program = re.compile(request["pattern"])
    except (re.error, ValueError, OverflowError, RecursionError) as error:
        return {"error": f"{type(error).__name__}: {error}"}
    matches = []
    signal.setitimer(signal.ITIMER_REAL, SECONDS_PER_PATTERN)
    try:
        for path in request["paths"]:
            matches.append(match(program, path))
    except Slow:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    matches += [None] * (len(request["paths"]) - len(matches))
    return {"matches": matches}


def match(program, path):
    try:
        return program.match(path) is not None
    except SystemError:
        # CPython's own report that it lost track of a group.
        return None


if sys.version_info[:2] != (3, 11):
    sys.exit(f"the patterns follow CPython 3.11, this is {sys.version}")
warnings.simplefilter("ignore")
signal.signal(signal.SIGALRM, stop)
for line in sys.stdin:
    re.purge()
    print(json.dumps(answer(json.loads(line))), flush=True)
