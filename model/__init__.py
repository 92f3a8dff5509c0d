"""What a step computes: plans, device state, decoder, weights, sampler."""
