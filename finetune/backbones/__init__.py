"""One file for each backbone; configs and model names find them, nothing imports them."""
