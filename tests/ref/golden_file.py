"""Golden files: text that a person can read and C can parse without a library.

    # comment
    tensor NAME D0 D1 ...
    values, eight to a line, nine significant digits (a float32 survives them unchanged)
"""
import os

GOLDEN = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "golden")


class GoldenFile:
    def __init__(self, path, comment):
        os.makedirs(os.path.dirname(path), exist_ok=True)
        self.file = open(path, "w", encoding="ascii")
        for line in comment.splitlines():
            self.file.write("# " + line + "\n")

    def put(self, name, values):
        """values: a torch tensor, or a (nested) list of numbers."""
        shape = list(getattr(values, "shape", None) or [len(values)])
        flat = values.detach().reshape(-1).tolist() if hasattr(values, "detach") else list(values)
        self.file.write(f"tensor {name} {' '.join(str(d) for d in shape)}\n")
        for begin in range(0, len(flat), 8):
            self.file.write(" ".join(f"{v:.9g}" for v in flat[begin:begin + 8]) + "\n")

    def close(self):
        self.file.close()
