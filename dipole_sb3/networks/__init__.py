"""Networks and samplers that know no algorithm: stacked perceptrons, heads, flows, stacks of several runs' networks."""
