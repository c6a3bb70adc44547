"""What gradient matching walks with: distances, priors, optimizers, starts, and the client's steps taken again."""
