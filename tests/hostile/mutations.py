"""What a fuzzer does to bytes: one seed, one mutant."""

from __future__ import annotations

import numpy as np

EXTREMES = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\0",
)


def mutate(data: bytes, random: np.random.Generator) -> bytes:
    """One to six changes: bits flipped, bytes set to extremes, pieces cut, doubled, moved or cut off."""
    mutant = bytearray(data)
    for _ in range(int(random.integers(1, 7))):
        if not mutant:
            break
        # half of the changes hit the first 200 bytes, where headers are
        reach = min(len(mutant), 200) if random.random() < 0.5 else len(mutant)
        place = int(random.integers(reach))
        length = int(random.integers(1, 65))
        match int(random.integers(7)):
            case 0:
                mutant[place] ^= 1 << int(random.integers(8))
            case 1:
                extreme = EXTREMES[int(random.integers(len(EXTREMES)))]
                mutant[place : place + len(extreme)] = extreme
            case 2:
                del mutant[place : place + length]
            case 3:
                mutant[place:place] = mutant[place : place + length]
            case 4:
                mutant[place : place + length] = random.bytes(length)
            case 5:
                del mutant[place:]
            case _:
                piece = mutant[place : place + length]
                del mutant[place : place + length]
                there = int(random.integers(len(mutant) + 1))
                mutant[there:there] = piece
    return bytes(mutant)
