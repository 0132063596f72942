"""Writes engine/src/policy/exclude/unicode.rs: what CPython 3.11's `re` says of every character.

Run with CPython 3.11 (Unicode 14.0): python3 unicode_tables.py > unicode.rs
"""
import re
import sys
import _sre
from re import _casefix

EVERY = range(0x110000)


def ranges(matches):
    out = []
    for code in EVERY:
        if matches(code):
            if out and out[-1][1] == code - 1:
                out[-1][1] = code
            else:
                out.append([code, code])
    return out


def mapping(change):
    """Runs of (first, last, step, image of first) over the characters that change."""
    out = []
    for code in EVERY:
        image = change(code)
        if image == code:
            continue
        if out:
            first, last, step, target = run = out[-1]
            gap = code - last
            if image - code == target - first and gap <= 2 and step in (0, gap):
                run[1], run[2] = code, gap
                continue
        out.append([code, code, 0, image])
    return [(first, last, step or 1, target) for first, last, step, target in out]


def table(doc, name, kind, rows):
    print(f"\n/// {doc}\n#[rustfmt::skip]\npub(super) static {name}: &[{kind}] = &[")
    line = "   "
    for row in rows:
        cell = " " + row + ","
        if len(line) + len(cell) > 98:
            print(line)
            line = "   "
        line += cell
    print(line)
    print("];")


def tuples(rows):
    return ["(" + ", ".join(f"{n:#x}" for n in row) + ")" for row in rows]


assert sys.version_info[:2] == (3, 11), sys.version
print("//! What CPython 3.11's `re` says of every character (Unicode 14.0).")
print("//!")
print("//! Written by tests/python/unicode_tables.py. These are CPython's answers, not the Unicode")
print("//! standard's: its word characters, for example, have no combining marks.")
for doc, name, pattern in (
    ("Characters of `\\w` without the ASCII flag.", "WORD", r"\w"),
    ("Characters of `\\d` without the ASCII flag.", "DIGIT", r"\d"),
    ("Characters of `\\s` without the ASCII flag.", "SPACE", r"\s"),
):
    program = re.compile(pattern)
    table(doc, name, "(u32, u32)", tuples(ranges(lambda code: program.match(chr(code)))))
RUN = "(u32, u32, u32, u32)"
WHAT = ": first, last, step, image of the first."
table("Lower case by the engine's simple mapping" + WHAT, "LOWER", RUN, tuples(mapping(_sre.unicode_tolower)))


def upper(code):
    # sre's simple upper case is not exported; it is the first character of str.upper().
    return ord(chr(code).upper()[0])


table("Upper case by the engine's simple mapping" + WHAT, "UPPER", RUN, tuples(mapping(upper)))
table(
    "Lower-case characters that match other lower-case characters when case is ignored.",
    "EXTRA_CASES",
    "(u32, &[u32])",
    [
        f"({key:#x}, &[{', '.join(f'{n:#x}' for n in values)}])"
        for key, values in sorted(_casefix._EXTRA_CASES.items())
    ],
)
