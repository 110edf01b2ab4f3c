"""What is to be labelled, and how."""
