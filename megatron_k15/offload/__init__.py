"""The trainer's memory, given away during rollouts and taken back (§2.6.3)."""
