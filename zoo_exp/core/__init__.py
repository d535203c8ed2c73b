"""Pure tensor functions: sensitivity, diversity, fusion, budgets. Imports only torch and the standard library.

Letters in shapes, throughout the package: B batch, N visual tokens, K kept tokens, M directions, T tiles,
Dv vision width, D language-model width, H projector hidden width, L sequence length.
"""
