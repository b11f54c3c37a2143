"""The program ``tf-toolkit``: a person's or CI's side of the toolkit."""
