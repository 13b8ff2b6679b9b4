"""The Triton models: tensors in, the library, tensors out. Importable only within Triton's Python backend."""

import locale

# Triton's stub starts Python isolated, with ASCII as the default encoding; PyTorch and others read UTF-8 files.
locale.setlocale(locale.LC_ALL, "C.UTF-8")
