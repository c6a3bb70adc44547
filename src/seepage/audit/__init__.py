"""Rule x defenses x threat model x attack -> findings."""
