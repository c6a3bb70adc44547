"""Where the truth meets what came out: exact, recognisable or neither, and which examples the update showed."""
