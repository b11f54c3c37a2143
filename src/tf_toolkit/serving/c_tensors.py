"""Arrays of numpy to tensors of TensorFlow's C API, and back."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from tf_toolkit.serving import checks
from tf_toolkit.serving.c_library import Deallocator
from tf_toolkit.serving.engine import Array
from tf_toolkit.serving.signature import NUMPY_TYPES, DataType

STRING = int(DataType.DT_STRING)
# By bare numbers, for members of an enumeration are slow to look up.
TYPES: Mapping[int, np.dtype[Any]] = {int(number): np.dtype(name) for number, name in NUMPY_TYPES.items()}
# tensorflow/core/platform/ctstring_internal.h: strings of up to 22 bytes lie in the tensor itself, after a byte that
# has their size times four; longer ones have a 1 in its lowest bits.
_STRING_SIZE = 24
_SMALL = 22
# What TensorFlow's kernels want of a tensor's beginning.
_ALIGNMENT = 64
# Of any array of numpy.
_HIGHEST_RANK = 64
# Up to here a second copy costs less than to ask numpy for the address.
_FEW_BYTES = 4096


class Tensors:
    """Makes and reads tensors."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._dims = [ctypes.c_int64 * rank for rank in range(_HIGHEST_RANK + 1)]
        # The memory of the strings that TensorFlow still holds, by numbers of their own.
        self._strings: dict[int, Array] = {}
        self._numbers = itertools.count(1)
        self._free = Deallocator(self._free_strings)

    def new(self, name: str, array: Array, number: int) -> int:
        """A tensor with a copy of the array, which must be of that type; for TF_DeleteTensor to free."""
        if number == STRING:
            return self._new_strings(array, checks.strings(name, array))
        if array.dtype != TYPES[number]:
            raise checks.unfit(name, array, DataType(number))
        size = array.nbytes
        few = size <= _FEW_BYTES
        whole: Any = array.tobytes() if few else np.ascontiguousarray(array)
        tensor: int = self._library.AllocateTensor(number, self._dims[array.ndim](*array.shape), array.ndim, size)
        data = self._library.TensorData(tensor)
        if size and data is None:
            self._library.DeleteTensor(tensor)
            raise MemoryError
        ctypes.memmove(data, whole if few else _address(whole), size)
        return tensor

    def _new_strings(self, array: Array, items: list[bytes]) -> int:
        """TensorFlow may keep the strings (a model that remembers them), and frees nothing of them but by ``_free``."""
        memory = np.zeros(len(items) * _STRING_SIZE + _ALIGNMENT, np.uint8)
        start = _address(memory)
        skipped = -start % _ALIGNMENT
        strings = memory[skipped : skipped + len(items) * _STRING_SIZE].reshape(-1, _STRING_SIZE)
        sizes = list(map(len, items))
        if sizes and max(sizes) <= _SMALL:
            strings[:, 0] = np.array(sizes, np.uint8) << 2
            strings[:, 1 : 1 + _SMALL] = np.array(items, f"S{_SMALL}").view(np.uint8).reshape(-1, _SMALL)
        else:
            copy = self._library.StringCopy
            for place, (item, size) in enumerate(zip(items, sizes)):
                copy(start + skipped + place * _STRING_SIZE, item, size)
        number = next(self._numbers)
        self._strings[number] = strings
        dims = self._dims[array.ndim](*array.shape)
        tensor: int = self._library.NewTensor(
            STRING, dims, array.ndim, start + skipped, strings.nbytes, self._free, number
        )
        return tensor

    def _free_strings(self, address: int, size: int, number: int) -> None:
        strings = self._strings.pop(number)
        for place in np.flatnonzero(strings[:, 0] & 3).tolist():
            self._library.StringDealloc(address + place * _STRING_SIZE)

    def array(self, tensor: int, number: int) -> Array:
        """An array with a copy of what is in the tensor, which is of that type."""
        library = self._library
        shape = [library.Dim(tensor, place) for place in range(library.NumDims(tensor))]
        if number == STRING:
            return self._strings_of(tensor).reshape(shape)
        size = library.TensorByteSize(tensor)
        if size <= _FEW_BYTES:
            return np.ndarray(shape, TYPES[number], bytearray(ctypes.string_at(library.TensorData(tensor), size)))
        array = np.empty(shape, TYPES[number])
        ctypes.memmove(_address(array), library.TensorData(tensor), size)
        return array

    def _strings_of(self, tensor: int) -> Array:
        library = self._library
        size = library.TensorByteSize(tensor)
        array = np.empty(size // _STRING_SIZE, object)
        if not size:
            return array
        start = library.TensorData(tensor)
        raw = ctypes.string_at(start, size)
        for place, at in enumerate(range(0, size, _STRING_SIZE)):
            first = raw[at]
            if first & 3:
                pointer = library.StringGetDataPointer(start + at)
                array[place] = ctypes.string_at(pointer, library.StringGetSize(start + at))
            else:
                array[place] = raw[at + 1 : at + 1 + (first >> 2)]
        return array


def _address(array: Array) -> int:
    address: int = array.__array_interface__["data"][0]
    return address
