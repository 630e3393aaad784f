"""The evaluation room: bits per byte, sample answers, intervals."""
