"""What a busy service does: parses, formats, sorts, matches, compresses, calls itself."""

import json
import re
import zlib


def fibonacci(n):
    return n if n < 2 else fibonacci(n - 1) + fibonacci(n - 2)


def main():
    while True:
        json.loads(json.dumps([1, 2, 3] * 100))
        re.sub("a+", "b", "aaabbb" * 100)
        fibonacci(12)
        zlib.compress(b"abc" * 1000)
        sorted(range(1000), key=lambda x: -x)


main()
