"""Three training steps of a convolution and a matrix product; then the number of this process's threads."""

from pathlib import Path

import tensorflow as tf

kernel = tf.Variable(tf.ones([3, 3, 8, 16]))
weights = tf.Variable(tf.ones([16, 4]))


@tf.function
def step(images: tf.Tensor) -> None:
    with tf.GradientTape() as tape:
        hidden = tf.nn.relu(tf.nn.conv2d(images, kernel, 1, "SAME"))
        loss = tf.reduce_sum(tf.matmul(tf.reduce_mean(hidden, [1, 2]), weights))
    for variable, gradient in zip((kernel, weights), tape.gradient(loss, [kernel, weights])):
        variable.assign_sub(0.01 * gradient)


for _ in range(3):
    step(tf.ones([4, 16, 16, 8]))
print("threads:", len(list(Path("/proc/self/task").iterdir())))
