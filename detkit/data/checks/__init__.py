"""What `detkit check` finds in a labelled folder."""
