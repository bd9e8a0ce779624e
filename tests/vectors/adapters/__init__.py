"""One module a slug with `compute(inputs, params, expected) -> outputs by name`.

`expected` names the outputs that the case states; more may be returned, a missing one fails the case. Values are
tensors, arrays, lists, mappings or scalars. `grad_<input>` is the gradient of the case's `loss` by that input.
"""
