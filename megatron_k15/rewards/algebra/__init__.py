"""Common written forms of an answer, read and compared exactly, in microseconds; what is not common is undecided."""
