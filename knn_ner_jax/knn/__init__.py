"""Neighbour wing: the datastore, the exact search, and the vote mixed into the tagger."""
