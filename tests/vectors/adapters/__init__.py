"""One module a slug with `compute(inputs, params) -> outputs by name`.

More outputs may be returned than the case states, a missing one fails it. Values are tensors, arrays, lists, mappings or
scalars. `grad_<input>` is added: the gradient of `loss` by that input's tensor.
"""
