"""States that a decoder carries from one run to the next: names, shapes and types.

All code that allocates, counts, renames or rewinds a cache derives it from this list: the memory plan, genai's
configuration, the token loop over graphs of fixed shapes, and the phone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from .json_fields import limited, one_of, refuse

BATCH, TOKENS = "batch", "tokens"
"""Symbolic axes: sequences of a run, and tokens read so far."""
STATE_BITS = {"float32": 32, "int8": 8, "int4": 4}
REWINDS = ("cut", "checkpoint")
MAX_STATES = 8
_NAME = re.compile("[A-Za-z_][A-Za-z0-9_]*")
MAX_LAYERS = 1 << 12
MAX_TOKEN_ELEMENTS = 1 << 20
MAX_FIXED_ELEMENTS = 1 << 26


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpec:
    """One kind of state of a decoder's layers: keys, values, or a recurrent layer's state.

    Attributes:
        name: name such as "key", "value"; in a target's graphs layer N's is ``past_NAME.N`` and ``present_NAME.N``.
        input: name of the graph's input, with ``%d`` for the layer.
        output: name of the graph's output, with ``%d`` for the layer.
        shape: axes of one layer's state; "batch" and "tokens" are symbolic. With "tokens" the state grows by one row
            per token, otherwise its size is fixed.
        dtype: "float32", "int8" or "int4". Two neighbours on the last axis of int4 share a byte, the even one in the
            low half: the graph's tensor is uint8, half as wide.
        layers: numbers of the layers with this state, ascending.
        rewind: "cut" if tokens are removed by cutting rows; "checkpoint" if only an earlier copy can restore it.
    """

    name: str
    input: str
    output: str
    shape: tuple[int | str, ...] = limited(1, MAX_FIXED_ELEMENTS)
    dtype: str = one_of(*STATE_BITS)
    layers: tuple[int, ...] = limited(0, MAX_LAYERS - 1)
    rewind: str = one_of(*REWINDS)

    @property
    def is_per_token(self) -> bool:
        """Whether the state grows with the sequence."""
        return TOKENS in self.shape

    @property
    def bits(self) -> int:
        """Bits of an element."""
        return STATE_BITS[self.dtype]

    @property
    def elements(self) -> int:
        """Elements of one layer and one sequence: per token if it grows, otherwise of the whole state."""
        return prod(axis for axis in self.shape if isinstance(axis, int))

    @property
    def size_bytes(self) -> int:
        """Bytes of all layers and one sequence: per token if it grows, otherwise of the whole state."""
        return len(self.layers) * self.elements * self.bits // 8

    def stored_shape(self, tokens: int) -> tuple[int, ...]:
        """Return the shape of the graph's tensor for one sequence of ``tokens`` tokens."""
        sizes = {BATCH: 1, TOKENS: tokens}
        axes = [axis if isinstance(axis, int) else sizes[axis] for axis in self.shape]
        return (*axes[:-1], axes[-1] // 2 if self.bits == 4 else axes[-1])

    def inputs(self) -> Iterator[str]:
        """Return the graph's inputs, by layer."""
        return (self.input % layer for layer in self.layers)


def kv_states(layers: Sequence[int], kv_heads: int, head_size: int, bits: int = 32) -> tuple[StateSpec, StateSpec]:
    """Return keys and values of attention layers, with genai's names.

    Args:
        layers: numbers of the layers that have a cache.
        kv_heads: number of key/value heads.
        head_size: head size of the cache.
        bits: bits of an element: 32, 8 or 4.
    """
    dtype = next(name for name, width in STATE_BITS.items() if width == bits)
    key, value = (
        StateSpec(
            name=name,
            input=f"past_key_values.%d.{name}",
            output=f"present.%d.{name}",
            shape=(BATCH, kv_heads, TOKENS, head_size),
            dtype=dtype,
            layers=tuple(layers),
            rewind="cut",
        )
        for name in ("key", "value")
    )
    return key, value


def check_states(states: Sequence[StateSpec], num_layers: int, where: str) -> None:
    """Refuse states that no graph can have.

    Raises:
        BundleError: names the path of the first one.
    """
    if not 1 <= len(states) <= MAX_STATES:
        raise refuse(where, len(states), f"1 to {MAX_STATES} states")
    for place, state in enumerate(states):
        here = f"{where}[{place}]"
        if not _NAME.fullmatch(state.name) or state.name in {other.name for other in states[:place]}:
            raise refuse(f"{here}.name", state.name, "letters, digits and _, each name once")
        for key in ("input", "output"):
            pattern = getattr(state, key)
            if pattern.count("%d") != 1 or pattern.count("%") != 1:
                raise refuse(f"{here}.{key}", pattern, "a name with one %d for the layer")
        symbols = [axis for axis in state.shape if isinstance(axis, str)]
        if (
            state.shape[:1] != (BATCH,)
            or not isinstance(state.shape[-1], int)
            or symbols not in ([BATCH], [BATCH, TOKENS])
        ):
            raise refuse(
                f"{here}.shape", list(state.shape), "'batch', then sizes, one of which may be 'tokens', a size last"
            )
        most = MAX_TOKEN_ELEMENTS if state.is_per_token else MAX_FIXED_ELEMENTS
        if state.elements > most:
            raise refuse(f"{here}.shape", list(state.shape), f"at most {most} elements of known size")
        if state.bits == 4 and int(state.shape[-1]) % 2:
            raise refuse(f"{here}.shape", list(state.shape), "an even last size, two elements share a byte")
        if state.rewind == "cut" and not state.is_per_token:
            raise refuse(f"{here}.rewind", state.rewind, "'checkpoint' for a state of fixed size")
        if list(state.layers) != sorted(set(state.layers)) or not state.layers or state.layers[-1] >= num_layers:
            raise refuse(f"{here}.layers", list(state.layers), f"ascending numbers below num_layers, {num_layers}")
