"""Float32 products of two square matrices in XLA: one side of the machine's roof."""

import jax
import jax.numpy as jnp

import turns

SIZE, COUNT = 2048, 10


def main() -> None:
    matrix = jnp.full((SIZE, SIZE), 1 / SIZE)  # its product with itself is itself
    chain = jax.jit(lambda a: jax.lax.fori_loop(0, COUNT, lambda _, x: x @ a, a))

    def step() -> None:
        chain(matrix).block_until_ready()

    turns.serve(step, flops=2 * COUNT * SIZE**3, versions={"jax": jax.__version__})


if __name__ == "__main__":
    main()
