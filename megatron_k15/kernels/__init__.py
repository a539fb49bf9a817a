"""Python face of csrc/: policy loss, cross entropy, group rewards and packing planner, each with its reference."""
