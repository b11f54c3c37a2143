"""A message of many lines, as Keras and TensorFlow write them."""

shapes = "\n".join(f"  * layer {number}: (None, {number})" for number in range(40))
problem = "Input 0 must have 4 features.\n\t [[node]]"
raise ValueError(f"Exception encountered when calling Dense.call().\n\n{shapes}\n\n{problem}")
