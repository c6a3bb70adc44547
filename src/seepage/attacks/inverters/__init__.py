"""What attack networks are made of: pairs, features of gradients, blueprints, maps fitted at the round's weights."""
