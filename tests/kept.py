"""Count of what a forward pass keeps for its backward."""

import torch


def kept_for_backward(work, parameters):
    """Return the bytes of the tensors that a forward pass keeps for its backward, parameters left out."""
    sizes, known = {}, {p.untyped_storage().data_ptr() for p in parameters}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            sizes[storage.data_ptr()] = storage.nbytes(), tensor  # held, so that no other gets its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(size for size, _ in sizes.values())
