"""Tensors in, tensors out: sensitivity, diversity, fusion, budgets. Imports torch and nothing else.

Letters in shapes, here and everywhere: B batch, N visual tokens, K kept, M directions, T tiles,
Dv vision width, D language-model width, H projector hidden width, L sequence.
"""
