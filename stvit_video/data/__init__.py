"""Read videos on disk into batches of uint8 clips."""
