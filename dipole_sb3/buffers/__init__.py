"""What batches are drawn from: recorded, mixed and stored transitions, their normalisation and checksums."""
