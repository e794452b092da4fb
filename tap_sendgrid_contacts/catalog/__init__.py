"""A catalog is a wish, not a fact: what it asks for, what the account has, who owns a column."""
