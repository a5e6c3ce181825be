"""From a network and data to a model: train(), its stopping rules, progress and memory."""
