"""Networks and samplers, independent of any algorithm: stacked perceptrons, heads, flows, stacks of several runs."""
