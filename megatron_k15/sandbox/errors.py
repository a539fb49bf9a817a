"""What can go wrong with the sandbox itself. What goes wrong in a program is a verdict, not an error."""

from megatron_k15.errors import K15Error


class SandboxError(K15Error):
    """The sandbox cannot be used: it did not start, does not answer, or refused the request."""


class RequirementError(SandboxError):
    """This machine lacks something that isolation needs. Nothing runs without it."""


class JailError(SandboxError):
    """A jail could not be set up or cleared. Says nothing about the program: run it again, or somewhere else."""
