"""The networks of the driving agent: encoder, decoder, adapters, and the sampler that turns noise into a plan."""
