"""A message in Japanese."""

raise ValueError("学習率が不正です")
