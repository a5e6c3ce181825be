"""The mathematics: activations, losses, optimizers and schedules, as tables of formulas."""
