"""A run: from the sources and the state to the contacts of complete exports."""
