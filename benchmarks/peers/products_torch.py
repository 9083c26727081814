"""Float32 products of two square matrices in PyTorch: one side of the machine's roof."""

import torch
import training

import turns

SIZE, COUNT = 2048, 10


def main() -> None:
    training.use_all_cores()
    matrix, product = torch.full((SIZE, SIZE), 1 / SIZE), torch.empty(SIZE, SIZE)

    def step() -> None:
        for _ in range(COUNT):
            torch.mm(matrix, matrix, out=product)

    turns.serve(step, flops=2 * COUNT * SIZE**3, versions=training.VERSIONS)


if __name__ == "__main__":
    main()
