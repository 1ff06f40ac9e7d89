"""PIE-Bench's format and its seven metrics; every quirk of the released harness is an option."""
