"""Is this output the expected one? In the service, on bytes: nothing is parsed, nothing can be tampered with."""

from megatron_k15.sandbox.values import Comparison


def is_equal(output: bytes, expected: bytes, comparison: Comparison) -> bool:
    """`tokens`: equal when split at ASCII white space. `exact`: equal bytes."""
    if comparison == "exact":
        return output == expected
    return output.split() == expected.split()
