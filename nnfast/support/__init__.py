"""What stands on the ground: arrays, files, threads, interruptions, random numbers and checks."""
