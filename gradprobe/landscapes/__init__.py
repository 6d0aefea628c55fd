"""Loss landscapes of any differentiable model: directions, lines and planes through its parameters."""

ONE_D = ("zero", "vector", "element")  # movements of biases and norm layers, see `directions.filter_normalized`
